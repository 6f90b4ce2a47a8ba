// C++: classes, templates, inheritance, exceptions, and what names of all of
// them look like to the linker.
typedef unsigned long long u64;

namespace outer {
namespace inner {
enum class Wide : u64 { Zero, Big = 0x8000000000000001ULL, All = ~0ULL };
enum class Tiny : signed char { Neg = -128, Pos = 127 };
enum Plain { One = 1, Two };
int counter;
int overloaded(int n) { return n; }
int overloaded(double d) { return (int)d; }
int overloaded(const char *s, ...) { return *s; }
} // namespace inner
} // namespace outer

namespace {
struct Hidden {
	int n;
	int get() { return n; }
};
Hidden hidden = {3};
int secret(Hidden &h) { return h.get(); }
} // namespace

struct Base {
	int base_field;
	Base() : base_field(1) {}
	virtual ~Base() { base_field = 0; }
	virtual int virtual_method(int n) { return n + base_field; }
	virtual int pure() const = 0;
	static int static_method(int n) { return n; }
	static int static_field;
	static const int constant_field = 12;
};
int Base::static_field = 9;

struct Other {
	char other_field;
	virtual void other_method() volatile {}
};

struct Derived : Base, private Other {
	short derived_field;
	int virtual_method(int n) override { return n * 2; }
	int pure() const override { return derived_field; }
	void other_method() volatile override {}
	virtual void introduced() {}
	struct Nested {
		int depth;
		enum Level { Low, High };
		Level level;
		class Deeper {
		public:
			char c[3];
		} deeper;
	} nested;
	union {
		int as_int;
		float as_float;
	};
	int Derived::*member_pointer;
	int (Derived::*method_pointer)(int);
	int &reference;
	int &&rvalue;
	Derived(int &r) : derived_field(4), member_pointer(0), method_pointer(0), reference(r), rvalue((int &&) r) {}
};

struct VBase {
	u64 vbase_field;
	virtual void v() {}
};
struct Left : virtual VBase {
	int left_field;
	void v() override {}
};
struct Right : virtual VBase {
	int right_field;
};
struct Diamond : Left, Right {
	int diamond_field;
	void v() override {}
};

class Operators {
	int n;

protected:
	int guarded() { return n; }

public:
	Operators(int v) : n(v) {}
	Operators(const Operators &o) : n(o.n) {}
	Operators &operator=(const Operators &o)
	{
		n = o.n;
		return *this;
	}
	Operators operator+(const Operators &o) const { return Operators(n + o.n); }
	bool operator==(const Operators &o) const { return n == o.n; }
	bool operator<(const Operators &o) const { return n < o.n; }
	int operator()(int a) { return a + guarded(); }
	int &operator[](int) { return n; }
	Operators &operator++()
	{
		n++;
		return *this;
	}
	Operators operator++(int) { return Operators(n++); }
	Operators *operator->() { return this; }
	Operators &operator<<=(int s)
	{
		n <<= s;
		return *this;
	}
	explicit operator bool() const { return n != 0; }
	operator int *() { return &n; }
	static void *operator new(__SIZE_TYPE__, void *p) { return p; }
	void operator delete(void *) {}
	~Operators() { n = 0; }
};
Operators operator"" _op(u64 v) { return Operators((int)v); }

template <typename T, int N> struct Array {
	T items[N];
	T &at(int i) { return items[i]; }
	template <typename U> U convert(int i) { return (U)items[i]; }
	static int instances;
};
template <typename T, int N> int Array<T, N>::instances = N;

template <typename T> T maximum(T a, T b) { return a > b ? a : b; }
template <typename... T> int count(T... t) { return sizeof...(t); }
template <int (*F)(int)> int apply(int n) { return F(n); }
template <typename T> struct Box {
	T value;
	struct Lid {
		T *owner;
	} lid;
};
template <> struct Box<void> {
	void *nothing;
};
template <template <typename> class W, typename T> struct Wrap {
	W<T> wrapped;
};
template <int *P> int deref() { return *P; }
template <bool B, char C, long long L> int values() { return B + C + (int)L; }

using Matrix = Array<Array<float, 4>, 4>;
using FunctionType = int(const char *, double);
FunctionType *function_pointer;
int (*array_of_functions[3])(int, Base *);
const volatile int *const volatile qualified = 0;
Matrix matrix;
Box<Box<int *>> boxes;
Wrap<Box, unsigned short> wrapped;
int (*pointer_to_array)[7];
decltype(nullptr) null_pointer;
char16_t char16 = u'x';
char32_t char32 = U'x';
wchar_t wide_char = L'x';
outer::inner::Wide wide = outer::inner::Wide::Big;
outer::inner::Tiny tiny = outer::inner::Tiny::Neg;
thread_local int tls_number = 5;

int throws(int n)
{
	if (n > 3)
		throw n;
	return n;
}

int catches(int n)
{
	int result = 0;
	try {
		Operators guard(n);
		result = throws(n) + guard(1);
	} catch (int caught) {
		int inside = caught * 2;
		result = inside;
	} catch (const Base &b) {
		result = b.pure();
	} catch (...) {
		result = -1;
	}
	return result;
}

int structured(int *p)
{
	int r = 0;
	__try {
		r = *p;
	} __except (1) {
		r = -2;
	}
	return r;
}

int lambdas(int n)
{
	auto twice = [](int a) { return a * 2; };
	auto closure = [n, &twice](int a) mutable { return twice(a) + n++; };
	return closure(3) + twice(4);
}

int local_types(int n)
{
	struct Local {
		int a, b;
		int sum() { return a + b; }
	} local = {n, 2};
	enum LocalEnum { LocalOne = 1 } e = LocalOne;
	return local.sum() + e;
}

int arguments(Base &b, Derived *d, const Other *const o, Box<Box<int *>> &x, int (&array)[4], int (*f)(Base *, int),
	      int Derived::*m, int (Derived::*mf)(int), volatile char *v, Base **bb, outer::inner::Wide w, bool t,
	      wchar_t c, char16_t c16, char32_t c32, long l, unsigned long ul, long double ld, signed char sc)
{
	return b.base_field + d->derived_field + (o != 0) + (x.value.value != 0) + array[2] + f(&b, 1) + d->*m +
	       (d->*mf)(2) + *v + (*bb)->base_field + (int)w + t + c + c16 + (int)c32 + l + (int)ul + (int)ld + sc;
}

static int file_local(Hidden h) { return h.n; }

void operator delete(void *) noexcept {}
void operator delete(void *, __SIZE_TYPE__) noexcept {}

extern "C" int start();
extern "C" int cxx_start(int n)
{
	int storage = n;
	Derived d(storage);
	Diamond diamond;
	diamond.diamond_field = n;
	Base *b = &d;
	Operators op = 5_op + Operators(n);
	++op;
	op++;
	op <<= 2;
	op = op;
	op[0] = 4;
	Array<int, 8> a = {};
	Array<Base *, 2> pointers = {};
	Box<void> none = {};
	int array[4] = {1, 2, 3, 4};
	int sum = b->virtual_method(n) + b->pure() + Base::static_method(n) + Base::static_field;
	sum += outer::inner::overloaded(1) + outer::inner::overloaded(1.0) + outer::inner::overloaded("x", 1, 2);
	sum += maximum(1, 2) + (int)maximum(1.0, 2.0) + count(1, 'c', 2.0, b) + count();
	sum += apply<outer::inner::overloaded>(3) + deref<&outer::inner::counter>() + values<true, 'x', -5000000000LL>();
	sum += a.at(3) + (int)a.convert<double>(2) + a.instances + (pointers.at(1) != 0);
	sum += catches(n) + structured(array) + lambdas(n) + local_types(n) + secret(hidden) + file_local(hidden);
	sum += arguments(d, &d, 0, boxes, array, 0, 0, 0, (volatile char *)array, &b, wide, true, wide_char, char16,
			 char32, 1, 2, 3.0L, 4);
	diamond.v();
	sum += (op == op) + (op < op) + (bool)op + *(int *)op + op->operator()(1);
	sum += tls_number + (none.nothing != 0) + matrix.at(1).at(2) + Matrix::instances;
	sum += (null_pointer == nullptr) + (qualified != 0) + (pointer_to_array != 0) + (int)tiny + wrapped.wrapped.value;
	sum += function_pointer ? function_pointer("", 1.0) : array_of_functions[1] ? 1 : 0;
	return sum + start();
}
