// Run in several clones of a new snapshot before the template is served. Prints the values that
// must differ between clones, those that must be equal in all, and faults. docs/templates.md
// explains the format.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const os = require('os');
const vm = require('vm');
const { execFileSync } = require('child_process');

const differ = {
  'Math.random': Math.random(),
  'randomBytes': crypto.randomBytes(16).toString('hex'),
  'randomUUID': crypto.randomUUID(),
  'randomInt': crypto.randomInt(2 ** 47),
  'getRandomValues': Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  'new-context': vm.runInNewContext('Math.random()'),
  'generateKeySync': crypto.generateKeySync('aes', { length: 128 }).export().toString('hex'),
  'mkdtemp': fs.mkdtempSync('/tmp/'),
  // In a child that this clone forks: the C library's generator.
  'child': execFileSync(process.execPath, ['-p', 'require("crypto").randomUUID()']).toString().trim(),
};

const listed = (folder) => fs.readdirSync(folder).sort();
// Standard streams are pipes; what else is open belongs to Node's loops.
const kinds = listed('/proc/self/fd').map((fd) => {
  try {
    return `${fd} ${fs.readlinkSync(`/proc/self/fd/${fd}`).replace(/[0-9]+/g, '')}`;
  } catch {
    return '';
  }
}).filter((kind) => kind !== '' && !kind.includes('/fd'));
const digest = (value) => crypto.createHash('sha256').update(JSON.stringify(value)).digest('hex');
const equal = {
  version: process.version,
  argv: JSON.stringify([process.argv, process.execArgv, process.argv0, process.title]),
  environment: JSON.stringify(process.env, Object.keys(process.env).sort()),
  descriptors: digest(kinds),
  files: JSON.stringify(['/tmp', '/task', '/run'].map((folder) => listed(folder).length)),
  globals: Object.getOwnPropertyNames(globalThis).sort().join(' '),
  modules: digest(Object.keys(require.cache)),
  ids: JSON.stringify([process.pid, process.getuid(), process.getgid(), process.getgroups(), process.umask()]),
  threads: String(listed('/proc/self/task').length),
  host: JSON.stringify([os.hostname(), os.availableParallelism()]),
};

const faults = [];
for (const thread of listed('/proc/self/task')) {
  const status = fs.readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
  const field = (name) => status.match(new RegExp(`^${name}:\\s*(.*)$`, 'm'))[1];
  for (const [name, wanted] of [['CapPrm', '0000000000000000'], ['CapBnd', '0000000000000000'], ['NoNewPrivs', '1'],
    ['Seccomp', '2']])
    if (field(name) !== wanted) faults.push(`thread ${thread} has ${name} ${field(name)}`);
}
for (const kind of kinds)
  if (/socket:/.test(kind)) faults.push(`descriptor ${kind} is open`);
try {
  fs.writeFileSync('/proc/self/comm', 'x');
  faults.push('it may write below /proc');
} catch {
  // As it must be: Landlock.
}
if (Math.abs(Date.now() - fs.statSync(fs.mkdtempSync('/tmp/')).mtimeMs) > 10_000) faults.push('its clock is wrong');

// Every Mayfly process that must be out of reach carries such a word. The pattern does not match
// itself.
const canary = /MAYFLY[-]CANARY[-][0-9a-f]{16}/;
const memory = fs.openSync('/proc/self/mem', 'r');
for (const line of fs.readFileSync('/proc/self/maps', 'utf8').split('\n')) {
  const span = line.match(/^([0-9a-f]+)-([0-9a-f]+) rw/);
  if (span === null || line.includes('[v')) continue;
  const [begin, end] = [parseInt(span[1], 16), parseInt(span[2], 16)];
  const block = Buffer.alloc(1 << 20);
  for (let at = begin; at < end && end - begin < 64 << 20; at += block.length) {
    try {
      const n = fs.readSync(memory, block, 0, Math.min(block.length, end - at), at);
      if (canary.test(block.latin1Slice(0, n))) faults.push(`the daemon's canary is in its memory: ${line}`);
    } catch {
      break;
    }
  }
}

for (const fault of faults) console.log('fault', fault);
for (const name of Object.keys(differ).sort()) console.log('differ', name, differ[name]);
for (const name of Object.keys(equal).sort()) console.log('equal', name, equal[name]);
