// The Node zygote: loads, warms up, is dumped; in a clone it becomes the task.
//
// It is a preload (`--require`) of a node that is asked to run `/task/main`, and serves in the
// middle of it. In a clone the preload returns, and Node's own main function goes on as in any
// node: it asks `Module.runMain` for the entry point, which by then is the task's. So stack traces,
// exit codes and the order of events are Node's, and no frame is ours.
'use strict';

const FOLDER = '/usr/lib/mayfly/';
const TASK_FILE = 1, TASK_STRING = 2, TASK_STDIN = 3;
const NOT_RUN = 126;

// Worker threads get the preloads of their process, too. There is nothing for them here.
if (!require('worker_threads').isMainThread) {
  leaveNoTrace();
  return;
}

const Module = require('module');
const fs = require('fs');
const path = require('path');
const v8 = require('v8');
const vm = require('vm');
const crypto = require('crypto');
const net = require('net');
const { Console } = require('console');

let transform = null;

const template = JSON.parse(fs.readFileSync(FOLDER + 'template.json', 'utf8'));
const addon = { exports: {} };
process.dlopen(addon, FOLDER + 'libmayfly-node.so');
const zygote = addon.exports;

// While the flag of start.sh is set: it seeds the main context's Math.random. Later contexts are
// seeded from the isolate's generator.
const SEED = Number(process.execArgv[0].replace('--random-seed=', ''));
Math.random();
v8.setFlagsFromString('--random-seed=0');

// Variables that only a new node reads.
const AT_START_ONLY = /^(?:NODE_|UV_|LD_|GLIBC_TUNABLES$|MALLOC_|OPENSSL_|SSL_CERT|LANG$|LANGUAGE$|LC_|ICU_DATA$)/;

function preload() {
  zygote.preloaded(null);
  for (const name of template.preload) {
    try {
      require(require.resolve(name, { paths: ['/task'] }));  // found in /node_modules, as by a task
    } catch (error) {
      zygote.refuse(`preload '${name}' failed: ${error.message}`);
      process.exit(2);
    }
    if (zygote.preloaded(name) !== 0) process.exit(2);
  }
}

// Node warns once of a loader that it calls experimental, and that `-e` uses itself.
function silenceLoaderWarning() {
  const emitWarning = process.emitWarning;
  process.emitWarning = () => {};
  vm.runInThisContext("import('fs')", { importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER });
  process.emitWarning = emitWarning;
}

// Our own tool: a task that loads the package gets a copy of its own. Null: the image has none.
function loadTranspiler() {
  const before = new Set(Object.keys(require.cache));
  try {
    return require(require.resolve('sucrase', { paths: ['/'] })).transform;
  } catch (error) {
    if (error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  } finally {
    for (const file of Object.keys(require.cache)) if (!before.has(file)) delete require.cache[file];
  }
}

// What a task's first moments use, so that a clone has it compiled and loaded.
function warmUp() {
  silenceLoaderWarning();
  transform = loadTranspiler();
  if (transform) transform('const x: number = 1;', { transforms: ['typescript', 'imports'] });
  for (let i = 0; i < 50; ++i) {
    vm.runInThisContext(`(() => ${i})()`, { filename: '[warm-up]' });
    Buffer.from('warm').toString('base64');
  }
  const module = new Module('/task/warm-up.js');
  module.filename = '/task/warm-up.js';
  module.paths = [];
  module._compile('exports.x = require("fs").readdirSync("/");', '/task/warm-up.js');
  // `assert` asks whether stderr has colours, which would make the stream now, of what it is before
  // the dump.
  const stderr = Object.getOwnPropertyDescriptor(process, 'stderr');
  Object.defineProperty(process, 'stderr', { configurable: true, get: () => ({}) });
  for (const name of Module.builtinModules)
    if (!/^(?:_|inspector|repl|trace_events|wasi|sys|punycode|cluster|node:|test|domain)/.test(name)) require(name);
  Object.defineProperty(process, 'stderr', stderr);
}

// The first line that a program prints takes Node's streams and its console, compiled at their first
// use. A pipe stands for stdout; what is left of it is the end of a closed handle.
function warmUpOutput() {
  const [read, write] = zygote.pipe();
  const stream = new net.Socket({ fd: write, readable: false, writable: true });
  stream._type = 'pipe';
  const out = new Console(stream, stream);
  for (let i = 0; i < 3; ++i) {
    out.log('warm', i, { a: [i] });
    out.error('up %s', i);
  }
  stream.destroy();
  fs.closeSync(read);
}

// The functions of the beginning of a task, on one that is given as a string.
function warmUpBegin() {
  for (let i = 0; i < 10; ++i) useUpKeptBytes();  // until V8 has made machine code of it
  for (let i = 0; i < 3; ++i) rehearseBegin();
}

function rehearseBegin() {
  const wanted = variables(Object.entries(process.env).map(([name, value]) => `${name}=${value}`));
  const names = new Set(Object.getOwnPropertyNames(globalThis));
  whyFresh(wanted);
  isModuleSyntax('console.log(1)');
  setEnvironment(wanted);
  prepareEval('[eval]');
  for (const name of Object.getOwnPropertyNames(globalThis)) if (!names.has(name)) delete globalThis[name];
}

// The numbers that were drawn ahead of the dump: they are the same in every clone.
function useUpDrawnNumbers() {
  for (let i = 0; i < 64; ++i) Math.random();
  useUpKeptBytes();
}

function useUpKeptBytes() {
  for (let i = 0; i < 128; ++i) crypto.randomUUID();
  for (let i = 0; i < 1024; ++i) crypto.randomInt(2 ** 40);
}

// Every page of garbage would be restored in every clone, and every page that V8 keeps for later. What
// is compiled stays: V8 would throw away the code that has not run for some collections.
function collectGarbage() {
  v8.setFlagsFromString('--no-flush-bytecode');
  if (!zygote.collect()) {
    v8.setFlagsFromString('--expose-gc');
    const collect = vm.runInNewContext('gc');
    collect();
    collect();
    v8.setFlagsFromString('--no-expose-gc');
  }
  v8.setFlagsFromString('--flush-bytecode');
}

function rehearse() {
  rehearseBegin();
  const module = new Module('/task/rehearsal.js');
  module.filename = '/task/rehearsal.js';
  module.paths = [];
  module._compile('1 + 1;', '/task/rehearsal.js');
  vm.runInThisContext('1', { filename: '[rehearsal]' });
}

// --- becoming the task -----------------------------------------------------------------

const expected = { ...template.task_env };

function variables(list) {
  const all = {};
  for (const one of list) {
    const at = one.indexOf('=');
    all[one.slice(0, at)] = one.slice(at + 1);
  }
  return all;
}

// Why this task needs a new node, or undefined.
function whyFresh(wanted) {
  for (const name of Object.keys(wanted))
    if (AT_START_ONLY.test(name) && wanted[name] !== expected[name]) return name;
  return undefined;
}

function execute(task, why) {
  const argv = ['node'];
  if (task.kind === TASK_FILE) argv.push(...task.argv);
  else if (task.kind === TASK_STRING) argv.push('-e', task.code.toString(), ...after(task.argv.slice(1)));
  else {
    // The program is read from a file of its own; `-` would read the task's stdin.
    const file = '/run/stdin.js';
    fs.writeFileSync(file, task.code);
    argv.push(file, ...task.argv.slice(1));
  }
  zygote.execute(process.execPath, argv, task.env);
}
// An argument that looks like an option is node's own, but after `--`.
const after = (words) => (words.length > 0 ? ['--', ...words] : []);

function setEnvironment(wanted) {
  for (const name of Object.keys(process.env)) if (!(name in wanted)) delete process.env[name];
  for (const name of Object.keys(wanted))
    if (process.env[name] !== wanted[name]) process.env[name] = wanted[name];
}

// As `node -e` and `node -` do before they run a program.
function prepareEval(name) {
  const module = new Module(name);
  module.filename = path.join(process.cwd(), name);
  module.paths = Module._nodeModulePaths(process.cwd());
  const require = Module.createRequire(module.filename);
  const define = (key, value) =>
    Object.defineProperty(globalThis, key, { value, writable: true, enumerable: true, configurable: true });
  if (name === '[eval]') for (const builtin of Module.builtinModules) offerGlobal(builtin, require);
  define('__filename', name);
  define('module', module);
  define('exports', module.exports);
  define('__dirname', '.');
  define('require', Object.assign((id) => module.require(id), require));
}

// `-e` has the built-in modules as globals, each loaded at its first use.
function offerGlobal(builtin, require) {
  if (builtin.startsWith('_') || builtin.includes('/') || builtin in globalThis) return;
  const set = (value) => {
    delete globalThis[builtin];
    globalThis[builtin] = value;
  };
  const get = () => {
    const loaded = require(builtin);
    delete globalThis[builtin];
    Object.defineProperty(globalThis, builtin, { get: () => loaded, set, configurable: true, enumerable: false });
    return loaded;
  };
  Object.defineProperty(globalThis, builtin, { get, set, configurable: true, enumerable: false });
}

// An ES module as `-e` is rare, and Node's own way to it cannot be reached from here.
function isModuleSyntax(code) {
  try {
    new vm.Script(code, { filename: '[eval]' });
    return false;
  } catch (error) {
    return error instanceof SyntaxError && /import statement|Unexpected token 'export'|import\.meta|await is only valid/.test(error.message);
  }
}

const TYPES = /\.[cm]?ts$/;

// Programs in TypeScript lose their types, and run as CommonJS modules. The loader's frames read as
// Node's own, which has such a loader from version 22 on.
function loadTypes() {
  const loader = vm.runInThisContext(
    `((fs, transform) => function (module, filename) {
      const options = { transforms: ['typescript', 'imports'], disableESTransforms: true, filePath: filename };
      module._compile(transform(fs.readFileSync(filename, 'utf8'), options).code, filename);
    })`, { filename: 'node:internal/modules/typescript' })(fs, transform);
  for (const extension of ['.ts', '.cts', '.mts']) Module._extensions[extension] = loader;
}

// What Node's main function will call in the place of its own entry point.
function entryPoint(task) {
  const original = Module.runMain;
  if (task.kind === TASK_FILE) {
    const file = path.resolve(task.argv[0]);
    if (!TYPES.test(file) || !transform) return original.bind(Module, file);
    loadTypes();
    return Module._load.bind(Module, file, null, true);
  }
  const name = task.kind === TASK_STRING ? '[eval]' : '[stdin]';
  prepareEval(name);
  const run = vm.runInThisContext.bind(vm, task.code.toString(), {
    filename: name,
    displayErrors: true,
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  if (task.kind === TASK_STRING) return run;
  // `node -` runs its program when it has read all of its standard input.
  process.stdin.setEncoding('utf8');
  process.stdin.resume();
  return process.stdin.on.bind(process.stdin, 'end', run);
}

function becomeTask(task) {
  const wanted = variables(task.env);
  const why = whyFresh(wanted);
  if (why !== undefined) execute(task, why);
  const code = task.kind === TASK_FILE ? undefined : task.code.toString();
  if (code !== undefined && isModuleSyntax(code)) execute(task, 'module syntax');
  setEnvironment(wanted);
  process.argv.length = 1;
  if (task.kind === TASK_FILE) process.argv.push(path.resolve(task.argv[0]), ...task.argv.slice(1));
  else if (task.kind === TASK_STDIN) process.argv.push('-', ...task.argv.slice(1));
  else process.argv.push(...task.argv.slice(1));
  if (task.kind === TASK_STRING) process.execArgv.push('-e', code);
  process.title = 'node';
  const run = entryPoint(task);
  const descriptor = Object.getOwnPropertyDescriptor(Module, 'runMain');
  // Read once, by Node's main function; from then on it is Node's own again.
  Object.defineProperty(Module, 'runMain', {
    configurable: true,
    get() {
      Object.defineProperty(Module, 'runMain', descriptor);
      return run;
    },
  });
}

// Nothing in the process tells of this file.
function leaveNoTrace() {
  delete require.cache[__filename];
  process.execArgv.length = 0;
  process._preload_modules.length = 0;
  if (module.parent) module.parent.children.length = 0;
}

for (const [name, value] of Object.entries(template.env)) process.env[name] = value;
warmUp();
warmUpOutput();
warmUpBegin();
preload();
process.chdir('/task');  // Node keeps the name of the folder, and a clone would ask for it no more
rehearse();
process._tickCallback();  // what the start left for later: a task's first microtasks would be run after it, in a deeper stack
leaveNoTrace();
collectGarbage();
const task = zygote.serve(SEED, useUpDrawnNumbers, rehearse);
becomeTask(task);
zygote.started();
