// Runs the programs of row.json one after another, each as a fresh node; a line of JSON for each.
'use strict';
const { execFileSync, spawn, spawnSync } = require('child_process');
const fs = require('fs');
const path = require('path');

const SECONDS_MAX = 60;
const environment = { ...process.env };

function put(name, content) {
  fs.mkdirSync(path.dirname(name), { recursive: true });
  fs.writeFileSync(name, content);
}

function prepare(kase) {
  process.chdir('/');
  for (const folder of ['/task', '/tmp']) for (const name of fs.readdirSync(folder)) fs.rmSync(path.join(folder, name), { recursive: true, force: true });
  fs.mkdirSync('/task/out', { recursive: true });
  if (kase.kind === 'file') put(`/task/${kase.script}`, Buffer.from(kase.source, 'base64'));
  for (const [name, content] of kase.files) put(`/task/${name}`, Buffer.from(content, 'base64'));
  process.chdir('/task');
}

// What the program reads and writes goes through pipes, as a task's does, and not through the sockets that spawn() would
// make. Each is served by a process of its own.
function pipes(input) {
  fs.writeFileSync('/run/in', input);
  for (const name of ['0', '1', '2']) fs.rmSync(`/run/${name}`, { force: true });
  execFileSync('mkfifo', ['/run/0', '/run/1', '/run/2']);
  const servants = ['cat /run/in >/run/0', 'cat /run/1 >/run/out', 'cat /run/2 >/run/err'].map((text) => spawn('sh', ['-c', text], { stdio: 'ignore' }));
  const ended = servants.map((servant) => new Promise((resolve) => servant.on('close', resolve)));
  const fds = [fs.openSync('/run/0', 'r'), fs.openSync('/run/1', 'w'), fs.openSync('/run/2', 'w')];
  return { fds, ended };
}

function filesBelow(folder, prefix = '') {
  const found = {};
  for (const entry of fs.existsSync(folder) ? fs.readdirSync(folder, { withFileTypes: true }) : [])
    if (entry.isDirectory()) Object.assign(found, filesBelow(path.join(folder, entry.name), `${prefix}${entry.name}/`));
    else if (entry.isFile()) found[prefix + entry.name] = fs.readFileSync(path.join(folder, entry.name)).toString('base64');
  return found;
}

async function run(kase) {
  prepare(kase);
  const source = Buffer.from(kase.source, 'base64');
  const { fds, ended } = pipes(kase.kind === 'stdin' ? source : '');
  const what = kase.kind === 'file' ? [kase.script] : kase.kind === 'string' ? ['-e', source.toString()] : ['-'];
  const env = { ...environment };
  for (const entry of kase.env) env[entry.slice(0, entry.indexOf('='))] = entry.slice(entry.indexOf('=') + 1);
  const done = spawnSync(process.execPath, [...what, ...kase.args], { argv0: 'node', env, stdio: fds, timeout: SECONDS_MAX * 1000, killSignal: 'SIGKILL' });
  for (const fd of fds) fs.closeSync(fd);
  await Promise.all(ended);
  const signals = require('os').constants.signals;
  const code = done.error ? 'it did not end' : done.signal ? -signals[done.signal] : done.status;
  const [stdout, stderr] = ['/run/out', '/run/err'].map((name) => fs.readFileSync(name).toString('base64'));
  return { code, stdout, stderr, files: filesBelow('/task/out') };
}

(async () => {
  for (const kase of JSON.parse(fs.readFileSync('/task/row.json', 'utf8'))) console.log(JSON.stringify(await run(kase)));
})();
