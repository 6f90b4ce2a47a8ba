// Optimised C++: member functions and templates inlined into each other.
struct Cursor {
	const unsigned char *at, *end;
	bool more() const { return at < end; }
	unsigned char next() { return *at++; }
	unsigned word()
	{
		unsigned lo = next();
		unsigned hi = next();
		return lo | hi << 8;
	}
};

namespace codec {
template <typename T> static inline T clamp(T v, T lo, T hi)
{
	if (v < lo)
		return lo;
	if (v > hi)
		return hi;
	return v;
}
volatile unsigned out;

__declspec(noinline) unsigned decode(const unsigned char *p, unsigned n)
{
	Cursor c = {p, p + n};
	unsigned sum = 0;
	while (c.more()) {
		unsigned w = c.word();
		out = w;
		sum += clamp<unsigned>(w, 16, 4096);
	}
	out = sum;
	return sum;
}

__declspec(noinline) double average(const double *v, int n)
{
	double total = 0;
	for (int i = 0; i < n; i++) {
		double d = clamp(v[i], -1.0, 1.0);
		total += d;
	}
	out = (unsigned)n;
	return n ? total / n : 0;
}
} // namespace codec

static const unsigned char bytes[] = {1, 2, 3, 4};
static const double doubles[] = {1, 2, 3};

extern "C" int inline_start()
{
	return (int)codec::decode(bytes, sizeof bytes) + (int)codec::average(doubles, 3);
}
