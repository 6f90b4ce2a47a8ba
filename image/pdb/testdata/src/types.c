// C: every shape of type and every common record of unoptimised code.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long NTSTATUS;

enum Colour { Red, Green = 5, Blue = -3 };
enum Big { Small = 1, Huge = 0x7fffffff };

struct Point {
	int x, y;
};
typedef struct Point POINT, *PPOINT;

typedef struct _LIST_ENTRY {
	struct _LIST_ENTRY *Flink;
	struct _LIST_ENTRY *Blink;
} LIST_ENTRY;

struct Bits {
	u32 low : 3;
	u32 mid : 10;
	u32 : 5;
	u32 high : 14;
	int sign : 7;
	u64 wide : 40;
	u64 rest : 24;
	u8 flag : 1;
};

union Value {
	int i;
	float f;
	double d;
	u8 bytes[16];
	struct {
		u16 lo, hi;
	} half;
	struct {
		u32 first;
		u32 second;
	};
};

struct Opaque;
typedef int (*Callback)(struct Point *p, const char *name, ...);
typedef NTSTATUS(__stdcall *Service)(void *, u32);

#pragma pack(push, 1)
struct Packed {
	u8 a;
	u32 b;
	u64 c;
};
#pragma pack(pop)

struct __declspec(align(64)) Aligned {
	char c;
};

struct All {
	LIST_ENTRY links;
	struct Bits bits;
	union Value value;
	struct Opaque *opaque;
	Callback callback;
	Service service;
	const char *text;
	char *const fixed;
	volatile long counter;
	const volatile unsigned short *port;
	struct Point points[3][4];
	Callback table[5];
	enum Colour colour;
	enum Big big;
	struct Packed packed;
	struct All *self;
	void **pp;
	_Bool yes;
	unsigned short wide[8];
	signed char sc;
	char plain;
	float f;
	double d;
	long l;
	unsigned long ul;
	long long ll;
};

int data_initialised = 42;
int data_zero;
static int file_static = 7;
const char text_constant[] = "constant text";
__declspec(thread) int thread_variable = 3;
static __declspec(thread) u64 thread_static;
struct All all = {.fixed = 0};
struct Point grid[3][4];
static LIST_ENTRY list_head = {&list_head, &list_head};
double number = 1.5;
Callback hook;

extern int publics_only(int);
extern int publics_data;
int optimised(int n, struct Point *p);

static int add(int a, int b)
{
	return a + b;
}

int __stdcall standard(int a, char b, short c)
{
	return a + b + c;
}

int __fastcall fast(int a, int b, int c)
{
	return a * b + c;
}

int variadic(struct Point *p, const char *name, ...)
{
	__builtin_va_list va;
	__builtin_va_start(va, name);
	int n = __builtin_va_arg(va, int);
	__builtin_va_end(va);
	return n + p->x + name[0];
}

// Nested blocks that name their variables alike.
int blocks(int n)
{
	int total = 0;
	static int calls;
	calls++;
	for (int i = 0; i < n; i++) {
		int square = i * i;
		if (square > 10) {
			int total = square - 10;
			calls += total;
		}
		total += square;
	}
	{
		struct Inner {
			char c;
			int n;
		} inner = {'a', total};
		total += inner.n + inner.c;
	}
	return total + calls;
}

u64 wide_arithmetic(u64 a, u64 b)
{
	u64 r = a * 3 + (b >> 2);
	return r ^ 0x123456789abcdefULL;
}

double floating(float f, double d)
{
	double r = f * d;
	return r + number;
}

struct Big3 {
	u64 a, b, c;
};

struct Big3 returns_struct(int n)
{
	struct Big3 r = {n, n + 1, n + 2};
	return r;
}

// More than a page of locals: the stack is probed.
int large_frame(int n)
{
	volatile char buffer[20000];
	buffer[n] = 1;
	buffer[n + 1] = 2;
	return buffer[n] + buffer[0];
}

int switches(enum Colour c)
{
	switch (c) {
	case Red:
		return 1;
	case Green:
		return 20;
	case Blue:
		return 300;
	}
	return 0;
}

int recursion(int n)
{
	if (n < 2)
		return 1;
	return n * recursion(n - 1);
}

int start(void)
{
	struct Point p = {1, 2};
	PPOINT pp = &p;
	u8 small = 200;
	int sum = add(pp->x, pp->y) + standard(1, 'b', 3) + fast(1, 2, 3);
	sum += variadic(pp, "name", 4);
	sum += blocks(sum & 15) + switches(Green) + recursion(5);
	sum += (int)wide_arithmetic(5, 6) + (int)floating(1.0f, 2.0);
	sum += (int)returns_struct(3).b + large_frame(10);
	sum += publics_only(sum) + publics_data + optimised(sum, pp);
	hook = variadic;
	all.self = &all;
	all.callback = hook;
	grid[1][2] = p;
	thread_variable += small + file_static + (int)thread_static;
	list_head.Flink = &all.links;
	return sum + data_initialised + data_zero + text_constant[2];
}
