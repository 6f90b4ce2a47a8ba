// What compiled code expects from a C library; it is never run.
int _fltused = 0x9875;
unsigned _tls_index;
#ifdef _M_IX86
unsigned long _tls_array = 0x2c;
__declspec(naked) void _chkstk(void)
{
	__asm__("ret");
}
#elif defined(_M_ARM64)
__attribute__((naked)) void __chkstk(void)
{
	__asm__("ret");
}
#else
__attribute__((naked)) void __chkstk(void)
{
	__asm__("ret");
}
#endif

void *memset(void *p, int c, unsigned long long n)
{
	for (char *q = p; n--;)
		*q++ = (char)c;
	return p;
}

void *memcpy(void *p, const void *s, unsigned long long n)
{
	const char *t = s;
	for (char *q = p; n--;)
		*q++ = *t++;
	return p;
}

int __CxxFrameHandler3(void)
{
	return 1;
}

int __C_specific_handler(void)
{
	return 1;
}

int _except_handler3(void)
{
	return 1;
}

void __stdcall _CxxThrowException(void *object, void *info)
{
	(void)object;
	(void)info;
	for (;;)
		;
}

int _purecall(void)
{
	return 0;
}

int atexit(void (*f)(void))
{
	(void)f;
	return 0;
}
