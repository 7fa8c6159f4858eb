"""What a task of `python` can count of the memory that its zygote shares with it."""

# Sets `lines`, the mappings; `shared`, pages of the file; `alone`, those of them that nobody else has mapped.
COUNT = """
import ctypes
PRESENT, OF_A_FILE, ALONE = 1 << 63, 1 << 61, 1 << 56
lines = [line for line in open('/proc/self/maps') if 'zygote (deleted)' in line]
shared = alone = 0
with open('/proc/self/pagemap', 'rb', 0) as pagemap:
    for line in lines:
        begin, end = (int(part, 16) for part in line.split()[0].split('-'))
        for at in range(begin, end, 4096):
            ctypes.string_at(at, 1)
        pagemap.seek(begin // 4096 * 8)
        for each in memoryview(pagemap.read((end - begin) // 4096 * 8)).cast('Q'):
            shared += each & (PRESENT | OF_A_FILE) == PRESENT | OF_A_FILE
            alone += each & (OF_A_FILE | ALONE) == OF_A_FILE | ALONE
"""
