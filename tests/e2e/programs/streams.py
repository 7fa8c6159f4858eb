# How data is written and left in a buffer: each part is the body of data(), which
# returns what holds the buffer. See test_python_ends.py.

### text
f = open('/task/out/x', 'w')
f.write('row')
return f

### text_of_many_blocks
f = open('/task/out/x', 'w')
f.write('0123456789abcde\n' * 5000 + 'row')
return f

### line_buffered
f = open('/task/out/x', 'w', buffering=1)
f.write('line\nrow')
return f

### two_files
f = [open('/task/out/x', 'w'), open('/task/out/y', 'w')]
for each in f:
    each.write('row')
return f

### own_encoding
f = open('/task/out/x', 'w', encoding='utf-16', newline='\r\n')
f.write('row\n')
return f

### escape_state_of_an_encoding
f = open('/task/out/x', 'w', encoding='iso2022_jp')
f.write('\u3042')
return f

### binary
f = open('/task/out/x', 'wb')
f.write(b'row')
return f

### raw
f = open('/task/out/x', 'wb', buffering=0)
f.write(b'row')
return f

### read_and_write
f = open('/task/out/x', 'w+b')
f.write(b'row')
f.seek(1)
f.write(b'X')
return f

### append
f = open('/task/out/x', 'a')
f.write('row')
return f

### raw_of_its_own
import io, os
class Raw(io.RawIOBase):
    fd = os.open('/task/out/x', os.O_WRONLY | os.O_CREAT)
    write_it = os.write
    def writable(self):
        return True
    def write(self, data):
        return Raw.write_it(Raw.fd, bytes(data))
f = io.TextIOWrapper(io.BufferedWriter(Raw()))
f.write('row')
return f

### codecs
import codecs
f = codecs.open('/task/out/x', 'w', 'utf-8', buffering=4096)
f.write('row')
return f

### device_that_is_full
f = open('/dev/full', 'w')
f.write('row')
return f

### device_that_is_full_binary
f = open('/dev/full', 'wb')
f.write(b'row')
return f

### descriptor_closed_below
import os
f = open('/task/out/x', 'w')
f.write('row')
os.close(f.fileno())
return f

### gzip
import gzip
f = gzip.GzipFile('/task/out/x', 'wb', mtime=0)
f.write(b'row')
return f

### bz2
import bz2
f = bz2.open('/task/out/x', 'wt')
f.write('row')
return f

### lzma
import lzma
f = lzma.open('/task/out/x', 'wt')
f.write('row')
return f

### zip
import zipfile
f = zipfile.ZipFile('/task/out/x', 'w')
f.writestr(zipfile.ZipInfo('member'), 'row')
return f

### tar
import io, tarfile
f = tarfile.open('/task/out/x', 'w:bz2')
member = tarfile.TarInfo('member')
member.size = 3
f.addfile(member, io.BytesIO(b'row'))
return f

### shelf
import dbm.dumb, shelve
f = shelve.Shelf(dbm.dumb.open('/task/out/x'), writeback=True)
f['key'] = ['row']
f['key'].append('more')
return f

### csv
import csv
f = csv.writer(open('/task/out/x', 'w'))
f.writerow(['a', 'row'])
return f

### xml
import xml.sax.saxutils
f = xml.sax.saxutils.XMLGenerator(open('/task/out/x', 'wb'), 'utf-8')
f.startElement('row', {})
return f

### sqlite
import sqlite3
f = sqlite3.connect('/task/out/x')
f.execute('create table t (a)')
f.execute("insert into t values ('row')")
return f

### temporary_file_kept
import tempfile
f = tempfile.NamedTemporaryFile('w', dir='/task/out', delete=False)
f.write('row')
f.flush()
import os
os.rename(f.name, '/task/out/x')
f.write(' more')
return f

### temporary_file
import tempfile
f = tempfile.NamedTemporaryFile('w', dir='/task/out')
f.write('row')
return f

### temporary_folder
import tempfile
f = tempfile.TemporaryDirectory(dir='/task/out')
open(f.name + '/x', 'w').write('row')
return f

### log_file
import logging
f = logging.FileHandler('/task/out/x')
logging.getLogger().addHandler(f)
logging.getLogger().warning('row')
f.stream.write('without a flush')
return f

### log_in_memory
import logging.handlers
f = logging.handlers.MemoryHandler(100, target=logging.FileHandler('/task/out/x'))
logging.getLogger('mine').addHandler(f)
logging.getLogger('mine').warning('row')
return f

### print_without_newline
import sys
print('row', end='')
return sys.stdout

### stdout_buffer
import sys
sys.stdout.buffer.write(b'row')
return sys.stdout.buffer

### stderr
import sys
sys.stderr.write('row')
return sys.stderr

### stderr_buffer
import sys
sys.stderr.buffer.write(b'row')
return sys.stderr.buffer

### duplicate_of_stdout
import os
f = os.fdopen(os.dup(1), 'w')
f.write('row')
return f

### stdout_opened_again
f = open(1, 'w', closefd=False)
f.write('row')
return f

### stdout_by_its_path
f = open('/dev/stdout', 'w')
f.write('row')
return f

### wrapper_over_stdout
import io, sys
f = io.TextIOWrapper(sys.stdout.buffer, 'utf-16-le', write_through=False)
f.write('row')
return f

### wrapper_in_stdout
import io, sys
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'latin-1')
sys.stdout.write('r\xf6w')
return sys.stdout

### stdout_in_a_file
import sys
sys.stdout = open('/task/out/x', 'w')
print('row', end='')
return sys.stdout

### stderr_in_a_file
import sys
sys.stderr = open('/task/out/x', 'w')
print('row', end='', file=sys.stderr)
return sys.stderr

### c_stdout
import ctypes
f = ctypes.CDLL(None)
f.printf(b'row')
return f

### c_stdout_line
import ctypes
f = ctypes.CDLL(None)
f.puts(b'row')
return f

### c_file
import ctypes
f = ctypes.CDLL(None)
f.fopen.restype = ctypes.c_void_p
f.fputs(b'row', ctypes.c_void_p(f.fopen(b'/task/out/x', b'w')))
return f

### c_file_with_a_buffer_of_its_own
import ctypes
f = ctypes.CDLL(None)
f.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(f.fopen(b'/task/out/x', b'w'))
f.malloc.restype = ctypes.c_void_p
f.setvbuf(file, ctypes.c_void_p(f.malloc(1 << 16)), 0, 1 << 16)
f.fputs(b'row\n' * 1000, file)
return f

### socket_file
import socket
f = socket.socketpair()
f = (f[1], f[0].makefile('w'))
f[1].write('row')
return f

### pipe_to_a_child
import subprocess
f = subprocess.Popen(['/bin/cat'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
f.stdin.write(b'row')
return f

### mapped_file
import mmap
with open('/task/out/x', 'w+b') as file:
    file.truncate(4096)
    f = mmap.mmap(file.fileno(), 0)
f[0:3] = b'row'
return f
