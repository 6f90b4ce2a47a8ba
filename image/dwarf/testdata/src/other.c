/* What types.h only declares. */
#include "types.h"

struct _HIDDEN {
	LIST_ENTRY Link;
	struct {
		ULONG One, Two;
	};
	ULONG Three;
};

union _HIDDEN_UNION {
	ULONG Whole;
	UCHAR Part[4];
};

/* The name of a variable of types.c, in another unit. */
static volatile ULONG StaticTight;

NOINLINE ULONG UseHidden(PHIDDEN hidden, union _HIDDEN_UNION *u)
{
	StaticTight = 1;
	return hidden->Three + hidden->Two + u->Part[2] + StaticTight;
}
