def tests(mode):
    return []
def close():
    pass
