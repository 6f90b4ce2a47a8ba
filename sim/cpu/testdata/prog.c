// Code for the interpreter to run as compilers write it. Rebuild with build.sh
// beside it. Every routine has a counterpart in Go that the test compares with.
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

void *memcpy(void *d, const void *s, u64 n) {
    u8 *a = d;
    const u8 *b = s;
    while (n--) *a++ = *b++;
    return d;
}

void *memset(void *d, int c, u64 n) {
    u8 *a = d;
    while (n--) *a++ = (u8)c;
    return d;
}

static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void block(u32 *h, const u8 *p) {
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++) w[i] = (u32)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        u32 a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (ROR(a, 7) ^ ROR(a, 18) ^ a >> 3) + w[i - 7] + (ROR(b, 17) ^ ROR(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++) s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        u32 t1 = s[7] + (ROR(s[4], 6) ^ ROR(s[4], 11) ^ ROR(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        u32 t2 = (ROR(s[0], 2) ^ ROR(s[0], 13) ^ ROR(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        for (int k = 7; k > 0; k--) s[k] = s[k - 1];
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

static u64 sha256(const u8 *in, u64 n, u8 *out) {
    u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    u8 last[128];
    u64 k = 0;
    for (; k + 64 <= n; k += 64) block(h, in + k);
    u64 rest = n - k, total = rest < 56 ? 64 : 128;
    memset(last, 0, sizeof last);
    memcpy(last, in + k, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++) last[total - 1 - i] = (u8)(n * 8 >> (8 * i));
    for (u64 i = 0; i < total; i += 64) block(h, last + i);
    for (int i = 0; i < 32; i++) out[i] = (u8)(h[i / 4] >> (24 - 8 * (i % 4)));
    return 32;
}

static void quick(long long *a, long long lo, long long hi) {
    while (lo < hi) {
        long long p = a[lo + (hi - lo) / 2], i = lo, j = hi;
        while (i <= j) {
            while (a[i] < p) i++;
            while (a[j] > p) j--;
            if (i <= j) {
                long long t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quick(a, lo, j);
        lo = i;
    }
}

static u64 sort(const u8 *in, u64 n, u8 *out) {
    n /= 8;
    memcpy(out, in, 8 * n);
    quick((long long *)out, 0, (long long)n - 1);
    return 8 * n;
}

// Signed and unsigned division and remainder of all widths, and 128-bit products.
static u64 divide(const u8 *in, u64 n, u8 *out) {
    u64 acc = 1;
    for (u64 k = 0; k + 16 <= n; k += 16) {
        u64 a = *(const u64 *)(in + k), b = *(const u64 *)(in + k + 8);
        acc = acc * 31 + a / (b | 1) + (u64)((long long)a % (long long)(b >> 1 | 1));
        acc = acc * 31 + (u32)a / ((u32)b | 1) + (u64)(long long)((int)a % (int)((u32)b >> 1 | 1));
        acc ^= (u64)((unsigned __int128)a * b >> 64);
        acc += (unsigned short)a / ((unsigned short)b | 1) + (u64)(long long)((signed char)a / ((signed char)(b & 0x7F) | 1));
    }
    *(u64 *)out = acc;
    return 8;
}

// A small machine with a switch, that compilers make a jump table of.
static u64 machine(const u8 *in, u64 n, u8 *out) {
    u64 r = 0, x = 1;
    for (u64 k = 0; k < n; k++) {
        switch (in[k] & 15) {
        case 0: r += x; break;
        case 1: r -= x; break;
        case 2: r ^= x << 7; break;
        case 3: x = x >> 3 | x << 61; break;
        case 4: r *= 3; break;
        case 5: x += in[k]; break;
        case 6: r = __builtin_bswap64(r); break;
        case 7: x ^= (u64)__builtin_popcountll(r); break;
        case 8: x = ~x; break;
        case 9: r = r > x ? r - x : x - r; break;
        case 10: x = (long long)x < 0 ? x + 5 : x + 9; break;
        case 11: if (r) x += (u64)__builtin_ctzll(r); break;
        case 12: if (r) x += (u64)__builtin_clzll(r); break;
        case 13: r = (u64)((long long)r >> 5); break;
        case 14: x = r << (x & 63) | 1; break;
        default: r += 0x9E3779B97F4A7C15; break;
        }
    }
    *(u64 *)out = r ^ x;
    return 8;
}

#ifdef FLOATS
static u64 floats(const u8 *in, u64 n, u8 *out) {
    double sum = 0, least = 1e300;
    float low = 0;
    for (u64 k = 0; k + 4 <= n; k += 4) {
        int v = *(const int *)(in + k);
        double d = v / 3.0;
        double s = __builtin_sqrt(d < 0 ? -d : d);
        sum = sum + s;
        sum = sum - (double)(u32)v;
        if (s < least) least = s;
        low = low * 0.5f;
        low = low + (float)v;
    }
    ((double *)out)[0] = sum;
    ((double *)out)[1] = least;
    ((double *)out)[2] = low;
    ((long long *)out)[3] = (long long)(sum / 1024);
    return 32;
}
#endif

__attribute__((ms_abi, section(".text.start"))) u64 start(u64 which, const u8 *in, u64 n, u8 *out) {
    switch (which) {
    case 0: return sha256(in, n, out);
    case 1: return sort(in, n, out);
    case 2: return divide(in, n, out);
    case 3: return machine(in, n, out);
#ifdef FLOATS
    case 4: return floats(in, n, out);
#endif
    }
    return 0;
}
