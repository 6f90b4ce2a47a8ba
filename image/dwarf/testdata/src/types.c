/* Types and data. */
#include "types.h"

typedef COLOUR PAINT;
typedef PAINT SHADE;

OBJECT GlobalObject = { .Type = 7 };
ULONG GlobalCount = 3;
static TIGHT StaticTight;
static const ULONG Limit = 17;
SIGNED GlobalSigned = Below;
SHADE GlobalShade = Blue;
TIGHT *TightPointer = &StaticTight;
const char *const Words[] = { "one", "two" };
volatile unsigned char Port;
HIDDEN *GlobalHidden;
int Uninitialised[32];

static NOINLINE ULONG CountUp(void)
{
	static ULONG counter = 1;
	return counter += 2;
}

NOINLINE ULONG CountDown(void)
{
	static ULONG counter = 100;
	return --counter;
}

__declspec(dllexport) ULONG Exported(POBJECT object, ULONG count)
{
	object->Flags = count + Limit;
	return CountUp() + CountDown() + UseHidden(object->Hidden, object->HiddenUnion);
}
