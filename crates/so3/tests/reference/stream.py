"""Independent implementation of steer3d_so3::Stream: prints the values pinned in tests/stream.rs."""
import math
import struct

M64 = (1 << 64) - 1


def mix(s):
    z = (s + 0x9E3779B97F4A7C15) & M64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def key(seed, purpose, indices):
    data = purpose.encode()
    words = [seed, len(data)]
    words += [int.from_bytes(data[i:i + 8], "little") for i in range(0, len(data), 8)]
    words += [len(indices), *indices]
    lanes = [mix(j) for j in (1, 2, 3, 4)]
    for w in words:
        lanes = [mix(s ^ w) for s in lanes]
    return struct.unpack("<8I", struct.pack("<4Q", *lanes))


def chacha8(k):
    rotl = lambda x, n: ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF
    counter = 0
    while True:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *k, counter, 0, 0, 0]
        s = list(start)

        def quarter(a, b, c, d):
            s[a] = (s[a] + s[b]) & 0xFFFFFFFF; s[d] = rotl(s[d] ^ s[a], 16)
            s[c] = (s[c] + s[d]) & 0xFFFFFFFF; s[b] = rotl(s[b] ^ s[c], 12)
            s[a] = (s[a] + s[b]) & 0xFFFFFFFF; s[d] = rotl(s[d] ^ s[a], 8)
            s[c] = (s[c] + s[d]) & 0xFFFFFFFF; s[b] = rotl(s[b] ^ s[c], 7)

        for _ in range(4):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        out = [(a + b) & 0xFFFFFFFF for a, b in zip(s, start)]
        for i in range(0, 16, 2):
            yield out[i] | out[i + 1] << 32
        counter += 1


def below(words, n):
    while True:
        p = next(words) * n
        if p & M64 >= (-n & M64) % n:
            return p >> 64


words = chacha8(key(1, "init", [2, 3]))
print([next(words) >> 11 for _ in range(20)])
print(below(chacha8(key(0, "", [])), 1_000_000))
words, order = chacha8(key(5, "shuffle", [0])), list(range(6))
for i in range(5, 0, -1):
    j = below(words, i + 1)
    order[i], order[j] = order[j], order[i]
print(order)
words = chacha8(key(1, "a longer purpose", []))
u, v = ((next(words) >> 11) / 2**53 for _ in range(2))
print(math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v))
