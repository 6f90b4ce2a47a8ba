// Every construct whose name a compiler decorates in a way of its own.
// clang --target=... -S makes assembly of it, from which the test takes names.
typedef decltype(sizeof 0) size_t;
typedef decltype(nullptr) nullptr_t;
#define N __declspec(noinline)
namespace std {
template <class T> struct char_traits {};
template <class T> struct allocator {};
template <class C, class T = char_traits<C>, class A = allocator<C>> struct basic_string {
	basic_string();
	~basic_string();
	basic_string &append(const basic_string &, size_t);
	template <class I> basic_string &assign(I, I);
	C *data;
};
typedef basic_string<char> string;
template <class T, class A = allocator<T>> struct vector {
	vector();
	void push_back(const T &);
	void push_back(T &&);
	T *begin_;
};
template <class A, class B> struct pair {
	A first;
	B second;
};
template <class... T> struct tuple;
template <> struct tuple<> {};
template <class H, class... T> struct tuple<H, T...> : tuple<T...> {
	H head;
};
template <class C, class T, class A> basic_string<C, T, A>::basic_string() : data(0) {}
template <class C, class T, class A> basic_string<C, T, A>::~basic_string() { data = 0; }
template <class C, class T, class A> basic_string<C, T, A> &basic_string<C, T, A>::append(const basic_string &o, size_t) { data = o.data; return *this; }
template <class C, class T, class A> template <class I> basic_string<C, T, A> &basic_string<C, T, A>::assign(I a, I b) { return *this; }
template <class T, class A> vector<T, A>::vector() : begin_(0) {}
template <class T, class A> void vector<T, A>::push_back(const T &) {}
template <class T, class A> void vector<T, A>::push_back(T &&) {}
} // namespace std
template struct std::basic_string<char>;
template struct std::basic_string<wchar_t>;
template struct std::vector<std::basic_string<char>>;
template struct std::vector<std::pair<int, std::vector<const char *>>>;
template std::string &std::string::assign<const char *>(const char *, const char *);

// Types.
void t1(bool, char, signed char, unsigned char, short, unsigned short, int, unsigned, long, unsigned long, long long,
	unsigned long long, float, double, long double, wchar_t, char16_t, char32_t, nullptr_t) {}
void t2(int *, const int *, int *const, const int *const, volatile int *, const volatile int *, int **, const int *const *, int *__restrict) {}
void t3(int &, const int &, volatile int &, int &&, const int &&, int *&, int *const &, int (&)[3], const int (&&)[2][4]) {}
void t4(int (*)(), void (*)(int, ...), int (&)(char), int (*(*)(int))(char), int (*(&)[3])(long), void (**)(void (*)())) {}
struct S {
	int a;
	int f(int);
	int c(int) const;
	int v(int) volatile;
	int cv(int) const volatile;
	int l() &;
	int r() &&;
	int cl() const &;
	int cr() const &&;
	int n() noexcept;
	static int s(int);
	static int sf;
	static const S sc;
};
union U { int i; };
enum E { e0 };
enum class EC : unsigned char { a };
class C { public: int i; class D { public: int j; enum F { f0 }; }; };
void t5(S, U, E, EC, C, C::D, C::D::F, const S *, U *, E *, EC &, S **) {}
void t6(int S::*, const int S::*, int S::*const, int (S::*)(int), int (S::*)(int) const, void (C::*)() volatile, int (S::**)(int), int S::*C::D::*) {}
void t7(int (S::*)() &, int (S::*)() &&, int (S::*)() const &, void (*)() noexcept, int (S::*)(int) noexcept) {}
void t8(const char *, const char *, int *, int *, S &, S &, C::D, C::D, int (*)(S &), int (*)(S &)) {}
void t9(int, ...) {}
void t10(...) {}
void t11(int[], int[3], int[3][4], const int[2][2]) {}

struct T12;
void __vectorcall t12(int, T12 *) {}
void __stdcall t13(int) {}
void __fastcall t14(int) {}
void (__stdcall *t15)(int);
void t16(int __unaligned *, const S __unaligned *) {}
int *t17() { return 0; }
const int t18() { return 0; }
const S t19() { return S(); }
int (*t20())(int) { return 0; }
int (*t21(int))[7] { return 0; }
int (S::*t22())(int) { return 0; }
S &t23(S &s) { return s; }
int S::*t24() { return 0; }
int (*(*t25())())() { return 0; }
auto t26() { return 1; }
auto t27() -> decltype(nullptr) { return nullptr; }
extern "C" int t28(int) { return 0; }
typedef int v4 __attribute__((vector_size(16)));
void t29(v4, v4 *) {}
void t30(_Complex double) {}

// Variables.
int v1; const int *v2; int *const v3 = 0; volatile int v4_; const volatile int *volatile v5; int v6[3]; int v7[2][3]; const int v8[3] = {1};
int (*v9)(int); int (*v10)[3]; int (S::*v11)(int); int S::*v12; int &v13 = v1; int &&v14 = 3; S v15; E v16; C::D *v17; void *v18; int *v19[4]; const char *const v20 = "x";
int (*v21[3])(int); static int v22 = 1; int *v23() { return &v22; } extern const int v24 = 5; wchar_t v25; bool v26; long long v27; unsigned long long v28; nullptr_t v29;
int S::sf; const S S::sc = {1};
__declspec(thread) int v30; thread_local std::string *v31; int __unaligned *v32; int *__restrict v33;

// Members.
int S::f(int) { return 0; }
int S::c(int) const { return 0; }
int S::v(int) volatile { return 0; }
int S::cv(int) const volatile { return 0; }
int S::l() & { return 0; }
int S::r() && { return 0; }
int S::cl() const & { return 0; }
int S::cr() const && { return 0; }
int S::n() noexcept { return 0; }
int S::s(int) { return 0; }
class Access {
	void pri(); static void spri(); virtual void vpri();
protected:
	void pro(); static void spro(); virtual void vpro();
public:
	void pub(); static void spub(); virtual void vpub();
private:
	static int ipri;
protected:
	static int ipro;
public:
	static int ipub;
	Access(); Access(int); Access(const Access &); Access(Access &&);
	virtual ~Access();
};
void Access::pri() {} void Access::spri() {} void Access::vpri() {} void Access::pro() {} void Access::spro() {} void Access::vpro() {}
void Access::pub() {} void Access::spub() {} void Access::vpub() {}
int Access::ipri, Access::ipro, Access::ipub;
Access::Access() {} Access::Access(int) {} Access::Access(const Access &) {} Access::Access(Access &&) {} Access::~Access() {}

// Operators.
struct O {
	void *operator new(size_t); void *operator new[](size_t); void operator delete(void *); void operator delete[](void *);
	O &operator=(const O &); O operator>>(int); O operator<<(int); bool operator!(); bool operator==(const O &); bool operator!=(const O &);
	int operator[](int); O *operator->(); O &operator*(); O &operator++(); O operator++(int); O &operator--(); O operator--(int); O operator-(); O operator+();
	O *operator&(); int operator->*(int); O operator/(int); O operator%(int); bool operator<(int); bool operator<=(int); bool operator>(int); bool operator>=(int);
	O operator,(int); int operator()(); int operator()(int, ...); O operator~(); O operator^(int); O operator|(int); bool operator&&(int); bool operator||(int);
	O &operator*=(int); O &operator+=(int); O &operator-=(int); O &operator/=(int); O &operator%=(int); O &operator>>=(int); O &operator<<=(int); O &operator&=(int); O &operator|=(int); O &operator^=(int);
	operator int(); operator const char *() const; operator S &(); operator bool(); template <class T> operator T *();
};
void *O::operator new(size_t) { return 0; } void *O::operator new[](size_t) { return 0; } void O::operator delete(void *) {} void O::operator delete[](void *) {}
O &O::operator=(const O &) { return *this; } O O::operator>>(int) { return *this; } O O::operator<<(int) { return *this; } bool O::operator!() { return 0; } bool O::operator==(const O &) { return 0; } bool O::operator!=(const O &) { return 0; }
int O::operator[](int) { return 0; } O *O::operator->() { return this; } O &O::operator*() { return *this; } O &O::operator++() { return *this; } O O::operator++(int) { return *this; } O &O::operator--() { return *this; } O O::operator--(int) { return *this; } O O::operator-() { return *this; } O O::operator+() { return *this; }
O *O::operator&() { return this; } int O::operator->*(int) { return 0; } O O::operator/(int) { return *this; } O O::operator%(int) { return *this; } bool O::operator<(int) { return 0; } bool O::operator<=(int) { return 0; } bool O::operator>(int) { return 0; } bool O::operator>=(int) { return 0; }
O O::operator,(int) { return *this; } int O::operator()() { return 0; } int O::operator()(int, ...) { return 0; } O O::operator~() { return *this; } O O::operator^(int) { return *this; } O O::operator|(int) { return *this; } bool O::operator&&(int) { return 0; } bool O::operator||(int) { return 0; }
O &O::operator*=(int) { return *this; } O &O::operator+=(int) { return *this; } O &O::operator-=(int) { return *this; } O &O::operator/=(int) { return *this; } O &O::operator%=(int) { return *this; } O &O::operator>>=(int) { return *this; } O &O::operator<<=(int) { return *this; } O &O::operator&=(int) { return *this; } O &O::operator|=(int) { return *this; } O &O::operator^=(int) { return *this; }
O::operator int() { return 0; } O::operator const char *() const { return 0; } O::operator S &() { return *(S *)0; } O::operator bool() { return 0; }
template <class T> O::operator T *() { return 0; }
template O::operator S *();
typedef int (*fp)(int);
struct O2 { operator fp(); operator int S::*(); template <class T> O2(T); };
O2::operator fp() { return 0; }
O2::operator int S::*() { return 0; }
template <class T> O2::O2(T) {}
template O2::O2(int);
template O2::O2(S *);
void *operator new(size_t, void *, int) { return 0; }
S operator+(const S &a, const S &) { return a; }
bool operator<(const S &, const S &) { return 0; }
template <class T> bool operator>(const T &, const S &) { return 0; }
template bool operator>(const C &, const S &);
long double operator"" _ld(long double v) { return v; }
int operator"" _s(const char *, size_t) { return 0; }

// Templates.
template <class T> void f1() {}
template void f1<int>(); template void f1<int *>(); template void f1<const int>(); template void f1<const int *>(); template void f1<S>(); template void f1<const S>(); template void f1<S &>(); template void f1<S &&>();
template void f1<int[3]>(); template void f1<int[]>(); template void f1<const char[2][3]>(); template void f1<void(int)>(); template void f1<int() const>(); template void f1<int (*)(S)>(); template void f1<int (S::*)()>(); template void f1<nullptr_t>(); template void f1<void>(); template void f1<E>();
template void f1<std::pair<S, std::pair<C, C::D>>>(); template void f1<std::tuple<int, char, std::tuple<>>>();
template <int I> void f2() {}
template void f2<0>(); template void f2<1>(); template void f2<10>(); template void f2<11>(); template void f2<-1>(); template void f2<-2147483647 - 1>(); template void f2<0x7fffffff>();
template <unsigned long long I> void f3() {}
template void f3<0>(); template void f3<~0ULL>();
template <bool B, char Ch, wchar_t W, E En, EC Ec> void f4() {}
template void f4<true, 'a', L'b', e0, EC::a>();
template <int *P, const int &R, void (*F)(int, ...), int S::*M, int (S::*MF)(int)> void f5() {}
template void f5<&v1, v24, t9, &S::a, &S::f>(); template void f5<nullptr, v24, nullptr, nullptr, nullptr>();
template <class... T> void f6(T...) {}
template void f6<>(); template void f6<int>(int); template void f6<int, S, int>(int, S, int);
template <class T, int... I> void f7() {}
template void f7<int>(); template void f7<int, 1, 2, 3>();
template <template <class...> class T> void f8() {}
template void f8<std::tuple>();
template <class T> using Alias = std::pair<T, T>;
template <template <class> class T> void f9() {}
template void f9<Alias>();
template <class T> struct Outer {
	template <class U> struct Inner { T t; U u; void m(); template <class V> void n(V); static T st; };
	void o(Outer, Outer<T *>);
	friend void fr(Outer) {}
	Outer(); ~Outer(); Outer &operator=(const Outer &); operator Outer<T *>();
	enum En { en0 };
};
template <class T> template <class U> void Outer<T>::Inner<U>::m() {}
template <class T> template <class U> template <class V> void Outer<T>::Inner<U>::n(V) {}
template <class T> template <class U> T Outer<T>::Inner<U>::st;
template <class T> void Outer<T>::o(Outer, Outer<T *>) {}
template <class T> Outer<T>::Outer() {} template <class T> Outer<T>::~Outer() {} template <class T> Outer<T> &Outer<T>::operator=(const Outer &) { return *this; }
template <class T> Outer<T>::operator Outer<T *>() { return Outer<T *>(); }
template struct Outer<int>; template struct Outer<int>::Inner<char>; template void Outer<int>::Inner<char>::n<S>(S);
void f10(Outer<int>::En, Outer<S>::Inner<C> *) {}
template <class T> T f11 = T();
template int f11<int>; template S f11<S>;
template <auto V> void f12() {}
template <class T> decltype(auto) f13(T t) { return (t); }
template decltype(auto) f13<int>(int);

// Scopes.
namespace n1 { namespace n2 { int x; void f() {} namespace n1 { void f(S) {} struct f { void g(f); }; } } inline namespace n3 { void g() {} } }
void n1::n2::n1::f::g(f) {}
namespace { int a1; void a2() {} struct A3 { void m(A3 *) {} static int s; }; int A3::s; namespace { void a4() {} } template <class T> void a5(T) {} }
namespace n1 { namespace { struct A6 { void m(); }; void A6::m() {} void a7(A6) {} } }
void useA(void) { a1 = 1; a2(); A3().m(0); A3::s = 1; a4(); a5(A3()); n1::A6().m(); n1::a7(n1::A6()); v22 = 3; }
int sc1(int n) { static int x = n; { static S y = {n}; { static int x = n + 1; return x + y.a; } } }
inline int sc2(int n) { static S s = {n}; static S t = {n + 1}; return s.a + t.a; }
template <class T> T sc3(T n) { static T x = n; struct L { T v; T get() { return v; } } l = {x}; return l.get(); }
int sc4() { struct L { int n; struct M { int f() { return 1; } } m; static int g() { return 2; } int h() { static int hs = L::g(); return hs; } } l = {1}; return l.m.f() + L::g() + l.h() + sc2(1) + sc3(1) + sc3<long>(2); }
int sc5(int n) { auto a = [](int b) { static int ls = b; return ls; }; auto c = [n](auto d) { return d + n; }; auto e = [&]() mutable { return n++; }; return a(1) + c(2) + (int)c(2.0) + e(); }
auto sc6 = [](S s) { return s.a; };
int sc7() { return sc6(S()); }
template <class F> int sc8(F f) { return f(1); }
int sc9() { return sc8([](int a) { return a; }) + sc8([](int a) { return a + 1; }); }
struct sc10 { int f = [] { return 4; }(); int g(int x = [] { return 5; }()) { return x; } };
int sc11() { return sc10().g() + sc10().f; }
int sc12(int n) { enum LE { a, b } e = b; struct LS { LE e; } s = {e}; f1<LS>(); f1<LE>(); return s.e + n; }

// Classes with bases.
struct B1 { virtual void a(); virtual ~B1(); int b1; };
struct B2 { virtual void b(); virtual ~B2(); int b2; };
struct D1 : B1, B2 { void a() override; void b() override; ~D1() override; };
struct V0 { virtual void v(); virtual ~V0(); int v0; };
struct V1 : virtual V0 { void v() override; int v1; V1(); };
struct V2 : virtual V0 { int v2; V2(); };
struct V3 : V1, V2 { void v() override; V3(); ~V3(); int v3; };
struct V4 : virtual B1, virtual V3 { void a() override; void v() override; V4(); };
void B1::a() {} B1::~B1() {} void B2::b() {} B2::~B2() {} void D1::a() {} void D1::b() {} D1::~D1() {} void V0::v() {} V0::~V0() {} void V1::v() {} V1::V1() {} V2::V2() {}
void V3::v() {} V3::V3() {} V3::~V3() {} void V4::a() {} void V4::v() {} V4::V4() {}
template <class T> struct TB : T { virtual void tb() {} };
TB<B1> tb1; TB<V4> tb2;
void (B1::*pm1)() = &B1::a; void (V4::*pm2)() = &V4::v; void (D1::*pm3)() = &D1::b;
void *mk() { return new D1[3]; }
void *mk2() { return new V4; }
void del(D1 *d, V4 *v) { delete[] d; delete v; }
struct Def { Def(int = 1); ~Def(); std::string s; };
Def::Def(int) {} Def::~Def() {}
Def arr[3];
struct __declspec(dllexport) Exp { Exp(int = 3) {} Exp(const Exp &, int = 2) {} virtual void e() {} int x[4]; };

// Initialised when the program starts.
S dyn1 = t23(v15); std::string dyn2; namespace n1 { std::string dyn3; } template <class T> struct Stat { static T s; }; template <class T> T Stat<T>::s = T(); template struct Stat<std::string>; inline Def dyn4; static Def dyn5; thread_local Def dyn6;
int useD() { return (int)(long long)&dyn5 + (int)(long long)&dyn6; }

// Texts.
const char *s1 = "plain", *s2 = "with, / \\ : . \n \t ' - \" ? @ \x01\x7f\x80\xe1\xff end", *s3 = "", *s4 = "longer than the thirty-two bytes that are kept of it", *s5 = "0123456789012345678901234567890";
const wchar_t *w1 = L"wide", *w2 = L"", *w3 = L"wide \x1234 \xff01 \\ \"quoted\"", *w4 = L"wide and longer than the thirty-two bytes that are kept of it";
const char16_t *u1 = u"sixteen", *u2 = u"sixteen bits and longer than thirty-two bytes"; const char32_t *U1 = U"32", *U2 = U"thirty-two bits and longer than thirty-two bytes";

// RTTI and exceptions.
namespace std { class type_info { public: virtual ~type_info(); }; }
const std::type_info &ty1(V4 *p) { return typeid(*p); }
const std::type_info &ty2() { return typeid(const std::vector<std::string> *); }
const std::type_info &ty3() { return typeid(int (S::*)(int)); }
void *ty4(B1 *b) { return dynamic_cast<D1 *>(b); }
void th(int n) { if (n == 1) throw S(); if (n == 2) throw D1(); if (n == 3) throw (const char *)"x"; if (n == 4) throw std::string(); if (n == 5) throw (V4 *)0; }
