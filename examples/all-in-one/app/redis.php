<?php
// The one connection to Redis that the page, the migration and the workers share, and the names of their keys.
declare(strict_types=1);

const SCHEMA = 1;
const KEY_SCHEMA = 'badge:schema';
const KEY_VISITS = 'badge:visits';
const KEY_QUEUE = 'badge:queue';          // list: jobs wait here, taken from the right
const KEY_QUEUED = 'badge:queued';        // how many were ever put there
const KEY_DONE = 'badge:done';            // how many were finished, each counted once
const KEY_DONE_BY = 'badge:done-by';      // hash: worker => finished
const KEY_WORKERS = 'badge:workers';      // set: every worker that may hold a job
const KEY_LATEST = 'badge:latest';        // the last badge drawn, an SVG image

if (PHP_SAPI === 'cli') {
    // A program that lost Redis ends with one line instead of a stack trace; it is started again once Redis is ready.
    set_exception_handler(function (Throwable $error): void {
        fwrite(STDERR, ($error instanceof RedisException ? "cannot go on without redis: {$error->getMessage()}" : (string) $error) . "\n");
        exit(1);
    });
}

/** The list of the job a worker has in hand, so that a killed worker loses none. */
function processing(string $worker): string
{
    return "badge:processing:$worker";
}

/** Present as long as the worker has been heard of lately. */
function alive(string $worker): string
{
    return "badge:alive:$worker";
}

/** Throws RedisException when Redis does not answer: callers fail, and whoever supervises starts them again. */
function redis(float $timeout = 1.0): Redis
{
    // Beside app/ in the stack's directory. Not from the working directory: php-fpm changes it to the script's.
    $socket = getenv('REDIS_SOCKET') ?: dirname(__DIR__) . '/run/redis.sock';
    $redis = new Redis();
    $redis->connect($socket, 0, $timeout);
    // Above the half second that a worker's BLMOVE waits for a job.
    $redis->setOption(Redis::OPT_READ_TIMEOUT, '5');
    return $redis;
}
