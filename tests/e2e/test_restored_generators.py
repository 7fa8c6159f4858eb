"""Generators of libraries that draw before the dump: no two clones of one snapshot go on alike.

A fork tells such libraries by the new pid. A restore tells them nothing: each has to be seeded in the clone, or be named in
docs/templates.md.
"""

import json
import pathlib
import shutil

import pytest

from template_place import Place, registries  # noqa: F401 (a fixture)
from test_lifecycle import TOP, daemons  # noqa: F401 (a fixture)

CLONES = 6
PACKAGES = "/usr/local/lib/python3.13/dist-packages"

# Preloaded: every generator has drawn before the dump, so that each has a state to repeat.
DRAWS_BEFORE = """
import random, secrets, ssl, tempfile, uuid
import cryptography.hazmat.primitives.asymmetric.rsa
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
import numpy, psycopg2
ec.generate_private_key(ec.SECP256R1()), x25519.X25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
numpy.random.random(), random.random(), secrets.token_hex(), ssl.RAND_bytes(8), tempfile.mktemp(), uuid.uuid1(), uuid.uuid4()
"""
PYTHON = """
import ctypes, json, os, random, secrets, ssl, tempfile, uuid
import numpy
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
bundled = next(line.split(maxsplit=5)[5].rstrip() for line in open('/proc/self/maps') if 'psycopg2' in line and '/libcrypto' in line)
of_psycopg2 = ctypes.create_string_buffer(16)
ctypes.CDLL(bundled).RAND_bytes(of_psycopg2, 16)
def number(key): return key.private_numbers().private_value
def child(code):
    back, out = os.pipe()
    if os.fork() == 0:
        os.write(out, str(code()).encode())
        os._exit(0)
    os.wait()
    return os.read(back, 4096).decode()
def ec_number(): return number(ec.generate_private_key(ec.SECP256R1()))
drawn = {
    'ec': ec_number(), 'ec again': ec_number(), 'ec in a child': child(ec_number), 'urandom in a child': child(lambda: os.urandom(16).hex()),
    'x25519': x25519.X25519PrivateKey.generate().private_bytes_raw().hex(), 'ed25519': ed25519.Ed25519PrivateKey.generate().private_bytes_raw().hex(),
    'rsa': rsa.generate_private_key(65537, 1024).private_numbers().d, 'fernet': Fernet.generate_key().decode(), 'aes': AESGCM.generate_key(128).hex(),
    'psycopg2 openssl': of_psycopg2.raw.hex(), 'ssl': ssl.RAND_bytes(16).hex(), 'hash seed of urandom': os.urandom(16).hex(),
    'numpy legacy': numpy.random.random(), 'numpy permutation': numpy.random.permutation(1000).tolist(), 'numpy fresh': numpy.random.default_rng().random(),
    'numpy RandomState': numpy.random.RandomState().random(), 'random': random.random(), 'Random': random.Random().random(), 'secrets': secrets.token_hex(),
    'tempfile': tempfile.mktemp(), 'mkdtemp': tempfile.mkdtemp(), 'uuid1': str(uuid.uuid1()), 'uuid4': str(uuid.uuid4()),
}
print(json.dumps(drawn))
"""
RUBY = """
require 'json'; require 'securerandom'; require 'tmpdir'; require 'tempfile'; require 'openssl'
child = IO.popen('-') { |io| io ? io.read : print(rand, SecureRandom.hex) }
puts JSON.generate('rand' => rand, 'Random.rand' => Random.rand, 'Random.new' => Random.new.rand, 'bytes' => Random.bytes(8).unpack1('H*'), 'child' => child,
  'Random.urandom' => Random.urandom(8).unpack1('H*'), 'seed' => Random.new_seed, 'hex' => SecureRandom.hex, 'uuid' => SecureRandom.uuid,
  'shuffle' => (1..1000).to_a.shuffle, 'sample' => (1..10**9).lazy.first(1000).sample(20), 'tmpdir' => Dir.mktmpdir, 'tempfile' => Tempfile.new.path,
  'openssl' => OpenSSL::Random.random_bytes(16).unpack1('H*'), 'key' => OpenSSL::PKey::EC.generate('prime256v1').private_key.to_s)
"""


def differ(drawn):
    alike = [name for name in drawn[0] if len({str(each[name]) for each in drawn}) != len(drawn)]
    assert not alike, {name: [each[name] for each in drawn] for name in alike}


def clones_draw(daemons, place, name, program):  # noqa: F811
    daemon = daemons(state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"), templates=(name,))
    drawn = []
    for _ in range(CLONES):
        result = daemon.cli.run("-t", name, "--wall-time", "50s", "-c", program)
        assert result.get("exitCode") == 0, (result, daemon.said())
        drawn.append(json.loads(result["stdout"]))
    return drawn


@pytest.mark.slow
def test_no_generator_of_a_python_library_repeats(registries, tmp_path, daemons):  # noqa: F811
    place = Place(tmp_path / "place")
    place.put("drawn", f'mechanism = "restore"\n[image]\npip = ["cryptography", "numpy", "psycopg2-binary"]\n[image.files]\n"{PACKAGES}/draws.py" = "draws.py"\n'
              '[zygote]\nmemory = "1GiB"\npreload = ["draws"]\n', draws__py=DRAWS_BEFORE)
    place("build", "drawn", check=0)
    differ(clones_draw(daemons, place, "drawn", PYTHON))


@pytest.mark.slow
def test_a_generator_that_cannot_be_seeded_is_refused(registries, tmp_path):  # noqa: F811
    """A `cryptography` that does not show its generator: its clones would make the same keys."""
    place = Place(tmp_path / "place")
    hides = "import cryptography.hazmat.bindings._rust as rust\nclass Nothing: lib = None\nrust._openssl = Nothing\n"
    place.put("hidden", f'mechanism = "restore"\n[image]\npip = ["cryptography"]\n[image.files]\n"{PACKAGES}/hides.py" = "hides.py"\n'
              '[zygote]\npreload = ["hides"]\n', hides__py=hides)
    place("build", "hidden", check=0)
    report = place.check("hidden", expect=1)
    assert "a look for generators to seed failed: AttributeError" in report["refused"], report


@pytest.mark.slow
def test_no_generator_of_ruby_repeats(registries, tmp_path, daemons):  # noqa: F811
    place = Place(tmp_path / "place")
    shutil.copytree(TOP / "tests/templates/ruby", place.dir / "ruby")
    manifest = place.dir / "ruby/manifest.toml"
    (place.dir / "ruby/draws.rb").write_text("rand; SecureRandom.hex; OpenSSL::Random.random_bytes(8); Random.new.rand; Tempfile.create('x') { nil }; OpenSSL::PKey::EC.generate('prime256v1')\n")
    text = manifest.read_text()
    for old, new in (('"open3"]', '"open3", "draws"]'), ("[image.files]\n", '[image.files]\n"/usr/local/lib/site_ruby/draws.rb" = "draws.rb"\n')):
        assert text.count(old) == 1, text
        text = text.replace(old, new)
    manifest.write_text(text)
    place("build", "ruby", check=0)
    differ(clones_draw(daemons, place, "ruby", RUBY))
    assert pathlib.Path(place.state, "snapshots").is_dir()
