# Run in several clones of a new snapshot before the template is served.
differ = {
  'rand' => rand, 'shuffle' => (1..1000).to_a.shuffle.first(10).join('-'), 'Random.new' => Random.new.rand, 'bytes' => Random.bytes(16).unpack1('H*'),
  'urandom' => Random.urandom(16).unpack1('H*'), 'SecureRandom' => SecureRandom.hex(16), 'uuid' => SecureRandom.uuid,
  'OpenSSL' => OpenSSL::Random.random_bytes(16).unpack1('H*'), 'tempfile' => Tempfile.create('x', &:path), 'child' => IO.popen(['od', '-An', '-N16', '-tx1', '/dev/urandom'], &:read).delete(' ').strip,
  'forked' => IO.popen('-') { |io| io ? io.read : print(Random.urandom(16).unpack1('H*'), SecureRandom.hex(8)) },
}
equal = { 'version' => RUBY_VERSION, 'argv' => "#{$0} #{ARGV}", 'environment' => ENV.sort.join(' '), 'files' => Dir.children('/task').sort.join(' '), 'pid' => Process.pid, 'features' => $LOADED_FEATURES.size }
Dir.children('/proc/self/task').each do |thread|
  status = File.read("/proc/self/task/#{thread}/status")
  puts "fault thread #{thread} has no filter" if status[/^Seccomp:\s*(\d)/, 1] != '2'
  puts "fault thread #{thread} has capabilities" if status[/^CapPrm:\s*(\h+)/, 1].hex != 0
end
differ.each { |name, value| puts "differ #{name} #{value}" }
equal.each { |name, value| puts "equal #{name} #{value}" }
