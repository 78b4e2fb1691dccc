<?php
// A queue worker: takes a job, draws a badge, counts it.
//
// No job is lost: BLMOVE takes it from the queue and puts it on this worker's own list in one step, and it leaves that list only
// together with being counted. A worker that is killed leaves its job there; another takes it back once the dead one has not been
// heard of for ALIVE_SECONDS. So a job may be done twice, yet is counted once.
//
// SIGTERM: the job in hand is finished, then the worker exits 0.
declare(strict_types=1);

require __DIR__ . '/redis.php';

const ALIVE_SECONDS = 5;
const COUNT_ONCE = <<<'LUA'
    -- Only the worker on whose list the job still is may count it.
    if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
    redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
    redis.call('SET', KEYS[4], ARGV[3])
    return redis.call('INCR', KEYS[3])
    LUA;

/** Puts the jobs of workers that are gone back into the queue, the front of it. */
function takeBack(Redis $redis): void
{
    foreach ($redis->sMembers(KEY_WORKERS) as $worker) {
        if ($redis->exists(alive($worker))) {
            continue;
        }
        $jobs = 0;
        while ($redis->rawCommand('LMOVE', processing($worker), KEY_QUEUE, 'RIGHT', 'RIGHT') !== false) {
            $jobs++;
        }
        // Removed last: a taker killed in the middle leaves the rest to the next one.
        $redis->sRem(KEY_WORKERS, $worker);
        if ($jobs > 0) {
            echo "took back $jobs job(s) of $worker, which is gone\n";
        }
    }
}

/** A flat badge; the wait stands for the work a real one costs. */
function draw(string $subject, string $status, int $milliseconds): string
{
    $end = hrtime(true) + $milliseconds * 1_000_000;
    // In a loop, since a signal ends a sleep early and a job in hand is to be finished.
    while (($left = $end - hrtime(true)) > 0) {
        usleep(max(1, intdiv($left, 1000)));
    }
    $text = htmlspecialchars("$subject | $status", ENT_XML1 | ENT_QUOTES);
    $width = 20 + 7 * strlen("$subject | $status");
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"$width\" height=\"20\" role=\"img\" aria-label=\"$text\">"
        . "<rect width=\"$width\" height=\"20\" rx=\"3\" fill=\"#2b6cb0\"/>"
        . "<text x=\"10\" y=\"14\" fill=\"#fff\" font-family=\"monospace\" font-size=\"11\">$text</text></svg>";
}

/** What the page calls this worker: the supervisor's name for the instance, where there is one. */
function label(): string
{
    return getenv('PS') ?: 'worker';
}

$running = true;
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, function () use (&$running): void {
        $running = false;
    });
}

// Never a name that was used before: a run's list must not be mistaken for its successor's.
$worker = gethostname() . '.' . getmypid() . '.' . base_convert((string) intdiv(hrtime(true), 1000), 10, 36);
$redis = redis();
echo "worker $worker waits for jobs\n";

$nextSign = 0;
while ($running) {
    // A sign of life once a second at most: each is a write to Redis's file. A job (2 s at most) fits into ALIVE_SECONDS.
    if (time() >= $nextSign) {
        $nextSign = time() + 1;
        $redis->setex(alive($worker), ALIVE_SECONDS, 1);
        $redis->sAdd(KEY_WORKERS, $worker);
        takeBack($redis);
    }
    // PHP handles a signal only once this returns, so half a second is also the longest an idle worker takes to stop.
    $job = $redis->rawCommand('BLMOVE', KEY_QUEUE, processing($worker), 'RIGHT', 'LEFT', '0.5');
    if (!is_string($job)) {
        continue;
    }
    $order = json_decode($job, true);
    $badge = draw((string) ($order['subject'] ?? 'badge'), (string) ($order['status'] ?? 'unknown'), min(max((int) ($order['ms'] ?? 200), 0), 2000));
    $redis->eval(COUNT_ONCE, [processing($worker), KEY_DONE_BY, KEY_DONE, KEY_LATEST, $job, label(), $badge], 4);
}
$redis->del(alive($worker));
$redis->sRem(KEY_WORKERS, $worker);
echo "worker $worker is done\n";
