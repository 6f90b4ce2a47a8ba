/* Code: locals in all kinds of places, inlined calls, calling conventions. */
#include "types.h"

static inline __attribute__((always_inline)) ULONG Square(ULONG value)
{
	ULONG product = value * value;
	return product + 1;
}

static inline __attribute__((always_inline)) ULONG Twice(ULONG base)
{
	ULONG first = Square(base);
	return first + Square(base + 1);
}

NOINLINE void Touch(volatile ULONG *where)
{
	*where += 1;
}

NOINLINE ULONG STDCALL Standard(ULONG one, ULONG two)
{
	volatile ULONG onStack[4];
	onStack[0] = one;
	Touch(&onStack[0]);
	{
		volatile ULONG block = two;
		Touch(&block);
		one += block;
	}
	return onStack[0] + one;
}

NOINLINE ULONG FASTCALL Fast(ULONG one, ULONG two, ULONG three)
{
	const ULONG constant = 42;
	ULONG sum = Twice(one) + constant;
	if (two > 3) {
		ULONG inner = Square(two);
		sum += inner;
		Touch(&GlobalCount);
		sum ^= inner;
	}
	return sum + three;
}

/* Two words in two registers. */
struct pair { PVOID left; ULONG right; };

NOINLINE ULONG Pieces(POBJECT object, ULONG count)
{
	struct pair p = { object, count };
	ULONG total = 0;
	for (ULONG i = 0; i < count; i++) {
		struct pair q = { p.left, p.right + i };
		Touch(&GlobalCount);
		total += q.right + ((POBJECT)q.left)->Type;
		p.right = total;
	}
	return total + p.right;
}

NOINLINE ULONG Variadic(const char *format, ...)
{
	__builtin_va_list args;
	__builtin_va_start(args, format);
	ULONG n = __builtin_va_arg(args, int);
	__builtin_va_end(args);
	return n;
}

/* The frame pointer stays: sizes that are not known. */
NOINLINE ULONG Dynamic(ULONG n)
{
	ULONG room[n + 1];
	room[n] = n;
	Touch(&room[n]);
	return room[n];
}

/* The stack is aligned: the frame address is an expression on x86. */
NOINLINE ULONG Aligned(ULONG n)
{
	volatile ULONG room[8] __attribute__((aligned(64)));
	room[n & 7] = n;
	Touch(&room[n & 7]);
	return room[n & 3];
}

NOINLINE ULONG Recursive(ULONG n)
{
	return n == 0 ? 0 : Recursive(n - 1) * 3 + Fast(n, n, n);
}

extern ULONG Exported(POBJECT object, ULONG count);
extern int CxxStart(int n);

ULONG Start(void)
{
	ULONG sum = Standard(1, 2) + Fast(3, 4, 5) + Recursive(6);
	sum += Pieces(&GlobalObject, 2) + Variadic("x", 7) + Dynamic(8) + Aligned(9);
	return sum + Exported(&GlobalObject, sum) + CxxStart((int)sum);
}
