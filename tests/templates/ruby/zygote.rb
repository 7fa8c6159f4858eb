# The Ruby zygote: loads, is dumped; in a clone it becomes the task.
require 'fiddle'
require 'json'

module Mayfly
  HERE = '/usr/lib/mayfly'
  ABI = 2
  FILE, STRING, STDIN = 1, 2, 3
  TASK = 'L L Q l x4 Q6'
  TASK_BYTES = 72

  LIBRARY = Fiddle.dlopen("#{HERE}/libmayfly-zygote.so")

  def self.function(name, *arguments, result: Fiddle::TYPE_INT)
    Fiddle::Function.new(LIBRARY[name], arguments, result)
  end

  PRELOADED = function('mayfly_zygote_preloaded', Fiddle::TYPE_VOIDP)
  REFUSE = function('mayfly_zygote_refuse', Fiddle::TYPE_VOIDP, result: Fiddle::TYPE_VOID)
  SERVE = function('mayfly_zygote_serve', Fiddle::TYPE_VOIDP, Fiddle::TYPE_VOIDP)
  STARTED = function('mayfly_zygote_started')

  # Whatever drew random bytes before the dump: all clones would go on with the same.
  RESEED = Fiddle::Closure::BlockCaller.new(Fiddle::TYPE_INT, []) do
    Random.srand
    OpenSSL::Random.random_add(Random.urandom(64), 64.0) if defined?(OpenSSL)
    0
  rescue StandardError
    1
  end

  def self.preload(names)
    PRELOADED.call(nil)
    names.each do |name|
      require name
    rescue LoadError => e
      REFUSE.call("preload '#{name}' failed: #{e.message}")
      exit!(2)
    ensure
      exit!(2) if PRELOADED.call(name) != 0
    end
  end

  def self.strings(at, bytes) = bytes.zero? ? [] : Fiddle::Pointer.new(at)[0, bytes].split("\0", -1)[..-2]

  def self.serve
    # abi and reserved, before_fork, after_fork_parent, after_fork_child, reseed, rehearse
    hooks = [ABI, 0, 0, 0, 0, RESEED.to_i, 0].pack('L L Q5')
    task = "\0" * TASK_BYTES
    result = SERVE.call(hooks, task)
    abort "zygote: cannot serve: #{SystemCallError.new(-result).message}" if result != 0
    kind, has_seed, seed, argc, _argv, _envp, code, code_bytes, at, bytes = task.unpack(TASK)
    words = strings(at, bytes)
    source = code_bytes.zero? ? '' : Fiddle::Pointer.new(code)[0, code_bytes]
    Random.srand(seed) if has_seed == 1
    [kind, words[0...argc], words[argc..], source]
  end

  def self.become(kind, argv, environment, source)
    ENV.replace(environment.to_h { |entry| entry.split('=', 2) })
    name = argv.shift
    ARGV.replace(argv)
    name = { STRING => '-e', STDIN => '-' }.fetch(kind, name)
    source = File.read(name) if kind == FILE
    $0 = name
    [source.dup.force_encoding('UTF-8'), name]
  end
end

template = JSON.parse(File.read("#{Mayfly::HERE}/template.json"))
Mayfly.preload(template['preload'])
ENV.delete('MAYFLY_ZYGOTE_ROLE')
ENV.delete('LD_PRELOAD')
program = Mayfly.become(*Mayfly.serve)
exit!(121) if Mayfly::STARTED.call != 0
$stdout.sync = true
eval(program[0], TOPLEVEL_BINDING, program[1], 1)
