// Functions with frames of every kind, for the tests of package unwind. Nothing
// here is of use; entry runs through most of it and adds up what comes out.

typedef unsigned long long u64;
typedef unsigned char u8;

#define NOINLINE __attribute__((noinline))
#define EXPORT __declspec(dllexport)

int _fltused;
volatile u64 sink;
volatile u64 table[64];

static NOINLINE u64 leaf(u64 a) { return a * 3 + 1; }

static NOINLINE u64 saves(u64 a, u64 b, u64 c, u64 d)
{
    u64 x = leaf(a), y = leaf(b), z = leaf(c), w = leaf(d);
    u64 p = leaf(x + y), q = leaf(z + w), r = leaf(x + z), s = leaf(y + w);
    return leaf(p) + leaf(q) + leaf(r) + leaf(s) + x + y + z + w + p + q + r + s;
}

static NOINLINE void fill(volatile u8 *b, u64 n)
{
    for (u64 i = 0; i < n; i++)
        b[i] = (u8)(i + n);
}

static NOINLINE u64 sum(volatile u8 *b, u64 n)
{
    u64 s = 0;
    for (u64 i = 0; i < n; i += 37)
        s += b[i];
    return s;
}

static NOINLINE u64 medium(u64 a)
{
    volatile u8 b[600];
    fill(b, 64);
    return sum(b, 64) + a;
}

static NOINLINE u64 large(u64 a)
{
    volatile u8 b[9000];
    fill(b, 64);
    return sum(b, 64) + leaf(a);
}

static NOINLINE u64 huge(u64 a)
{
    volatile u8 b[700000];
    fill(b, 16);
    fill(b + 699000, 16);
    return sum(b, 16) + leaf(a);
}

static NOINLINE u64 dynamic(u64 n)
{
    volatile u8 *b = __builtin_alloca(n * 16 + 32);
    fill(b, n);
    u64 s = sum(b, n);
    b = __builtin_alloca(n + 48);
    fill(b, n);
    return s + sum(b, n) + leaf(n);
}

static NOINLINE u64 aligned(u64 n)
{
    volatile u8 b[96] __attribute__((aligned(64)));
    volatile u8 *d = __builtin_alloca(n + 16);
    fill(b, 96);
    fill(d, n);
    return sum(b, 96) + sum(d, n) + leaf(n);
}

static NOINLINE u64 variadic(int n, ...)
{
    __builtin_va_list ap;
    u64 s = 0;
    __builtin_va_start(ap, n);
    while (n-- > 0)
        s += leaf(__builtin_va_arg(ap, u64));
    __builtin_va_end(ap);
    return s;
}

static NOINLINE double floats(double a, double b, double c, double d, u64 n)
{
    double e = a * b, f = b * c, g = c * d, h = d * a, i = a + b, k = c + d;
    for (u64 m = 0; m < n; m++) {
        sink = leaf(m);
        a += e * 0.5; b += f * 0.25; c += g; d += h; e += i; f += k; g += a; h += b; i += c; k += d;
    }
    return a + b + c + d + e + f + g + h + i + k;
}

static NOINLINE u64 early(u64 a, u64 b)
{
    if (a == 0)
        return b;
    u64 s = 0;
    for (u64 i = 0; i < 3; i++)
        s += saves(a + i, b, a, b + i);
    return s;
}

static NOINLINE u64 tail(u64 a)
{
    u64 x = leaf(a) + leaf(a + 1);
    sink = x;
    return saves(x, a, x, a);
}

static NOINLINE u64 pick(u64 a)
{
    u64 x = leaf(a);
    switch (a) {
    case 0: return x + leaf(1);
    case 1: return x * leaf(2);
    case 2: return x - leaf(3);
    case 3: return x ^ leaf(4);
    case 4: return x | leaf(5);
    case 5: return medium(x);
    case 6: return x & leaf(7);
    case 7: return large(x);
    }
    return 1;
}

static NOINLINE u64 deep(u64 n) { return n == 0 ? leaf(0) : deep(n - 1) + leaf(n); }

static NOINLINE u64 many(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i, u64 k)
{
    return leaf(a + b) + leaf(c + d) + leaf(e + f) + leaf(g + h) + leaf(i + k);
}

typedef u64 (*function)(u64);
static const function functions[] = {leaf, medium, large, dynamic, aligned, tail, pick, deep};

static NOINLINE u64 indirect(u64 a) { return functions[a % 8](a); }

static NOINLINE u64 jumps(u64 a)
{
    sink = leaf(a);
    return functions[a % 8](a + 1);
}

#if !defined(__i386__) && !defined(NO_SEH)
int __C_specific_handler(void) { return 1; }

static NOINLINE u64 guarded(u64 a)
{
    u64 s = leaf(a);
    __try {
        s += large(a);
    } __finally {
        sink = leaf(s);
    }
    return s;
}

static NOINLINE u64 caught(u64 a)
{
    __try {
        return leaf(a) + saves(a, 1, 2, 3);
    } __except (sink != 0) {
        return leaf(2);
    }
}
#else
#define guarded leaf
#define caught leaf
#endif

#ifdef __x86_64__
static NOINLINE u64 flags(u64 a)
{
    u64 f;
    __asm__ volatile("pushfq; pop %0" : "=r"(f));
    sink = f;
    return leaf(a);
}
#else
#define flags leaf
#endif

EXPORT u64 entry(u64 n)
{
    u64 s = 0;
    s += saves(n, n + 1, n + 2, n + 3);
    s += medium(n) + large(n) + huge(n) + dynamic(n) + aligned(n);
    s += variadic(3, n, n + 1, n + 2);
    s += (u64)floats(1.5, 2.5, 3.5, (double)(long long)n, 3);
    s += early(0, n) + early(n, 2) + tail(n);
    for (u64 i = 0; i < 9; i++)
        s += pick(i) + indirect(i) + jumps(i);
    s += deep(6) + many(1, 2, 3, 4, 5, 6, 7, 8, 9, n);
    s += guarded(n) + caught(n) + flags(n);
    table[n & 63] = s;
    return s;
}
