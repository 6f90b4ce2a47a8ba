// C++: namespaces, classes, templates, bases, references.
#define NOINLINE __attribute__((noinline))

inline void *operator new(__SIZE_TYPE__, void *p) noexcept { return p; }

namespace ns {

enum class Level : unsigned char { Low, High = 3 };

struct Base {
	int base;
	virtual int Get() const { return base; }
	virtual void Set(int v) { base = v; }
};

struct Other {
	virtual int Second() { return 2; }
	long long second;
};

class Derived : public Base, public Other {
public:
	struct Inner {
		short a;
		struct Deeper { char b; } deeper;
	};
	struct Later;
	static int shared;
	static const int fixed = 12;
	explicit Derived(int n);
	NOINLINE int Get() const override;
	NOINLINE int operator+(const Derived &other) const;
	Inner inner;
	Level level : 2;
	Later *later;
private:
	int Derived::*member = nullptr;
	int (Derived::*method)() const = &Derived::Get;
};

struct Derived::Later { int x, y; };

int Derived::shared = 4;

NOINLINE Derived::Derived(int n) { base = n; level = Level::Low; static Later l = { 1, 2 }; later = &l; }
int Derived::Get() const { return base + shared; }
int Derived::operator+(const Derived &other) const { return base + other.base; }

struct Virtual : virtual Base { int own; };

template <typename T, int N> struct Box {
	T items[N];
	NOINLINE T Sum() const
	{
		T sum = 0;
		for (int i = 0; i < N; i++) sum += items[i];
		return sum;
	}
};

inline namespace v1 { int versioned = 9; }

template <typename T> NOINLINE T Largest(T a, T b) { return a > b ? a : b; }

NOINLINE int Overloaded(int n) { return n + 1; }
NOINLINE int Overloaded(const char *s) { return s[0]; }

} // namespace ns

namespace {
struct Hidden { int h; };
Hidden hidden = { 5 };
NOINLINE int Anonymous(int &&n, int *__restrict p) { return n + hidden.h + *p; }
} // namespace

ns::Derived *object;
ns::Virtual *virtualObject;
char16_t utf16 = u'x';
using Pointer = decltype(nullptr);
Pointer nothing;

extern "C" int CxxStart(int n)
{
	static char place[sizeof(ns::Derived)];
	ns::Derived *d = new (place) ns::Derived(n);
	ns::Box<int, 3> ints = { { n, 2, 3 } };
	ns::Box<long long, 2> longs = { { n, 2 } };
	object = d;
	auto lambda = [&](int k) { return k + n + d->Get(); };
	int sum = ints.Sum() + (int)longs.Sum() + ns::Largest(n, 4) + (int)ns::Largest(2.0, 3.0);
	return sum + lambda(3) + ns::Overloaded(n) + ns::Overloaded("x") + (*d + *d) + Anonymous(n + 1, &n) + ns::versioned;
}
