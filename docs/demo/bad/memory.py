# Eats memory.
hoard = []
while True:
    hoard.append(bytearray(1 << 20))
    hoard[-1][::4096] = b"x" * 256
