<?php
// The page, and the few addresses beside it:
//   /                counts a visit and shows the stack; ?plain=1 or Accept: text/plain for curl
//   /enqueue?n=5     puts jobs into the queue (POST from the page, GET for curl); ?ms= is what one job takes
//   /badge.svg       the last badge a worker drew
//   /slow?ms=500     answers late, for watching a graceful stop
//   /healthz         200 when PHP runs and Redis answers
declare(strict_types=1);

require __DIR__ . '/../redis.php';

function answer(int $status, string $type, string $body): never
{
    http_response_code($status);
    header("Content-Type: $type; charset=utf-8");
    header('Cache-Control: no-store');
    echo $body;
    exit;
}

function number(string $name, int $default, int $min, int $max): int
{
    $value = filter_input(INPUT_POST, $name, FILTER_VALIDATE_INT) ?? filter_input(INPUT_GET, $name, FILTER_VALIDATE_INT);
    return is_int($value) ? min(max($value, $min), $max) : $default;
}

/** Process id => name, from this process up to the first of the container. */
function ancestors(): array
{
    $chain = [];
    $pid = getmypid();
    while ($pid > 0 && count($chain) < 16) {
        $stat = @file_get_contents("/proc/$pid/stat");
        // The name stands in parentheses and may hold any character, so the fields begin after the last one.
        if ($stat === false || ($end = strrpos($stat, ')')) === false) {
            break;
        }
        $chain[$pid] = substr($stat, strpos($stat, '(') + 1, $end - strpos($stat, '(') - 1);
        $pid = (int) (explode(' ', substr($stat, $end + 2))[1] ?? 0);
    }
    return $chain;
}

$path = strtok($_SERVER['REQUEST_URI'] ?? '/', '?');
$plain = isset($_GET['plain']) || str_starts_with($_SERVER['HTTP_ACCEPT'] ?? '', 'text/plain');

if ($path === '/slow') {
    $ms = number('ms', 500, 0, 10000);
    usleep($ms * 1000);
    answer(200, 'text/plain', "answered after $ms ms\n");
}

try {
    $redis = redis();
    switch ($path) {
        case '/healthz':
            $redis->ping();
            answer(200, 'text/plain', "ok\n");
        case '/badge.svg':
            $badge = $redis->get(KEY_LATEST);
            is_string($badge) ? answer(200, 'image/svg+xml', $badge) : answer(404, 'text/plain', "no badge was drawn yet\n");
        case '/enqueue':
            $count = number('n', 5, 1, 1000);
            $ms = number('ms', 200, 0, 2000);
            $batch = $redis->multi();
            for ($i = 0; $i < $count; $i++) {
                $batch->lPush(KEY_QUEUE, json_encode(['id' => bin2hex(random_bytes(8)), 'subject' => 'build', 'status' => 'passing', 'ms' => $ms]));
            }
            $batch->incrBy(KEY_QUEUED, $count)->exec();
            if ($plain || $_SERVER['REQUEST_METHOD'] !== 'POST') {
                answer(202, 'text/plain', "queued $count\n");
            }
            header('Location: /', true, 303);
            exit;
        case '/':
            break;
        default:
            answer(404, 'text/plain', "not found: $path\n");
    }
    $visits = $redis->incr(KEY_VISITS);
    $waiting = $redis->lLen(KEY_QUEUE);
    $workers = $redis->sMembers(KEY_WORKERS);
    $inHand = array_sum(array_map(fn (string $worker): int => (int) $redis->lLen(processing($worker)), $workers));
    [$queued, $done] = array_map(intval(...), $redis->mGet([KEY_QUEUED, KEY_DONE]));
    $doneBy = $redis->hGetAll(KEY_DONE_BY);
} catch (RedisException $error) {
    answer(503, 'text/plain', "cannot reach redis: {$error->getMessage()}\n");
}
ksort($doneBy, SORT_NATURAL);
$chain = ancestors();
$first = trim((string) @file_get_contents('/proc/1/comm'));
$supervisor = array_search('firstmate', $chain, true);
if ($supervisor !== false) {
    // On a developer's machine his own shell and terminal are above.
    $chain = array_slice($chain, 0, array_search($supervisor, array_keys($chain), true) + 1, true);
}

if ($plain) {
    $lines = "visits $visits\njobs_queued $queued\njobs_waiting $waiting\njobs_in_hand $inHand\njobs_done $done\nworkers " . count($workers) . "\n";
    foreach ($doneBy as $worker => $count) {
        $lines .= "done_by{worker=\"$worker\"} $count\n";
    }
    answer(200, 'text/plain', $lines . "pid1 $first\nsupervisor_pid " . ($supervisor ?: 'none') . "\n");
}

$h = fn (string|int $text): string => htmlspecialchars((string) $text, ENT_QUOTES);
$host = preg_replace('/:\d+$/', '', $_SERVER['HTTP_HOST'] ?? 'localhost');
$status = 'http://' . $host . ':' . (getenv('STATUS_PORT') ?: '9180') . '/';
$percent = $queued > 0 ? intdiv(100 * $done, $queued) : 0;
header('Content-Type: text/html; charset=utf-8');
header('Cache-Control: no-store');
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Badges, all in one container</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; --line: #8884; --accent: #2b6cb0; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
  p.lead { margin: 0 0 1.5rem; opacity: .75; }
  section { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.25rem; margin: 0 0 1rem; }
  section > :last-child { margin-bottom: 0; }
  h2 { font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; margin: 0 0 .5rem; opacity: .7; }
  .big { font-size: 2.6rem; font-weight: 700; line-height: 1.1; font-variant-numeric: tabular-nums; }
  .big small { font-size: 1.1rem; font-weight: 400; opacity: .75; }
  .bar { height: .6rem; border-radius: .3rem; background: var(--line); overflow: hidden; margin: .5rem 0; }
  .bar i { display: block; height: 100%; background: var(--accent); }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  td { padding: .15rem 0; border-top: 1px solid var(--line); } td + td { text-align: right; }
  a { white-space: nowrap; } code { font-size: .95em; } .chain code { white-space: nowrap; }
  button { font: inherit; padding: .4rem .9rem; border: 0; border-radius: .4rem; background: var(--accent); color: #fff; cursor: pointer; }
</style>
<h1>Badges, all in one container</h1>
<p class="lead">nginx, php-fpm, Redis and two workers, each of them watched.</p>
<section>
  <h2>Visits, kept in Redis</h2>
  <div class="big"><?= $h($visits) ?></div>
</section>
<section>
  <h2>Jobs</h2>
  <div class="big"><?= $h($done) ?> <small>of <?= $h($queued) ?> done</small></div>
  <div class="bar"><i style="width: <?= $percent ?>%"></i></div>
  <p><?= $h($waiting) ?> waiting, <?= $h($inHand) ?> in hand, <?= count($workers) ?> workers</p>
  <table>
<?php foreach ($doneBy as $worker => $count): ?>
    <tr><td>done by <code><?= $h($worker) ?></code></td><td><?= $h($count) ?></td></tr>
<?php endforeach ?>
  </table>
  <form method="post" action="/enqueue"><p><button name="n" value="10">Queue ten jobs</button></p></form>
<?php if ($done > 0): ?>
  <img src="/badge.svg" alt="the last badge a worker drew">
<?php endif ?>
</section>
<section>
  <h2>Who supervises</h2>
  <p class="chain"><?php foreach (array_reverse($chain, true) as $pid => $name): ?>
    <code><?= $h($name) ?> <?= $pid ?></code><?= $pid === getmypid() ? ' (this page)' : ' &rarr;' ?>

  <?php endforeach ?></p>
  <p>PID 1 is <code><?= $h($first) ?></code>. Kill anything below firstmate with <code>kill -9</code>, then reload.
  <a href="<?= $h($status) ?>">firstmate's status</a></p>
</section>
</html>
