<?php
// Runs first and once: brings the keys in Redis up to SCHEMA. Safe to run again, and to be killed at any moment.
declare(strict_types=1);

require __DIR__ . '/redis.php';

$redis = redis();
$found = (int) $redis->get(KEY_SCHEMA);
if ($found > SCHEMA) {
    fwrite(STDERR, "cannot migrate: the data is of schema $found, this program knows " . SCHEMA . "; deploy the newer version\n");
    exit(1);
}
foreach ([KEY_VISITS, KEY_QUEUED, KEY_DONE] as $counter) {
    $redis->setnx($counter, 0);
}
$redis->set(KEY_SCHEMA, SCHEMA);
echo $found === SCHEMA ? 'schema ' . SCHEMA . " is current\n" : "migrated from schema $found to " . SCHEMA . "\n";
