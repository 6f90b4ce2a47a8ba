// Optimised C: inlined calls in inlined calls, variables in registers, in
// pieces of registers, constant, and with gaps in where they live.
struct Point {
	int x, y;
};
struct Pair {
	long long first;
	int second;
	int third;
};

int sink(int);
int sink2(struct Pair *);
extern volatile int noise;

static inline int innermost(int a)
{
	int t = a * 7;
	noise = t;
	return t + 1;
}

static inline int middle(int a, int b)
{
	int u = innermost(a);
	noise = u;
	int v = innermost(b + u);
	return u - v;
}

#line 100 "included.h"
static inline int from_header(struct Point *p)
{
	int q = p->x;
	noise = q;
	return q + p->y;
}
#line 37 "opt.c"

static inline struct Pair make_pair(long long a, int b)
{
	struct Pair r;
	r.first = a;
	r.second = b;
	r.third = b * 2;
	return r;
}

__declspec(noinline) int pieces(long long a, int b)
{
	struct Pair p = make_pair(a, b);
	noise = p.second;
	p.first += noise;
	noise = (int)p.first;
	p.third -= noise;
	return p.second + p.third + sink((int)p.first);
}

__declspec(noinline) int optimised(int n, struct Point *p)
{
	int sum = 0;
	const int fixed = 17;
	for (int i = 0; i < n; i++) {
		int local = middle(i, n);
		sum += local;
		if (local > fixed)
			sum += from_header(p);
	}
	noise = sum;
	int tail = sink(sum + fixed);
	noise = tail;
	return tail + pieces(n, tail) + middle(tail, 3);
}

volatile int noise;

__declspec(noinline) int sink(int n)
{
	struct Pair p = {n, n, n};
	noise = sink2(&p);
	return (int)p.first;
}

__declspec(noinline) int sink2(struct Pair *p)
{
	p->first++;
	return p->second;
}
