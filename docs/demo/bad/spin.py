# Spins.
while True:
    pass
