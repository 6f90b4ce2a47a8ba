/* What the C fixtures share. */
#ifdef __i386__
#define STDCALL __attribute__((stdcall))
#define FASTCALL __attribute__((fastcall))
#else
#define STDCALL
#define FASTCALL
#endif
#define NOINLINE __attribute__((noinline))

typedef void *PVOID;
typedef unsigned long ULONG, *PULONG;
typedef unsigned char UCHAR;
typedef __WCHAR_TYPE__ wchar_t;
typedef wchar_t WCHAR, *PWSTR;

/* Defined in other.c only. */
struct _HIDDEN;
typedef struct _HIDDEN HIDDEN, *PHIDDEN;
union _HIDDEN_UNION;
/* Defined nowhere. */
struct _NOWHERE;

typedef struct _LIST_ENTRY {
	struct _LIST_ENTRY *Flink, *Blink;
} LIST_ENTRY, *PLIST_ENTRY;

typedef enum _COLOUR { Red, Green = 5, Blue, Last = 0x7FFFFFFF } COLOUR;
typedef enum _SIGNED { Below = -2, Zero = 0, Above = 2 } SIGNED;

typedef ULONG (STDCALL *CALLBACK)(PVOID Context, ULONG Code, ...);

typedef struct _BITS {
	ULONG A : 1;
	ULONG B : 3;
	ULONG C : 28;
	unsigned long long D : 40;
	unsigned long long E : 24;
	signed char F : 4;
	signed char G : 4;
	int H : 7;
} BITS;

#pragma pack(push, 1)
typedef struct _PACKED {
	UCHAR Byte;
	ULONG Long;
	unsigned short Short;
	unsigned long long Quad;
} PACKED;
#pragma pack(pop)

typedef struct __attribute__((gcc_struct, packed)) _TIGHT {
	unsigned A : 5;
	unsigned B : 30;
	unsigned C : 29;
	UCHAR D;
} TIGHT;

typedef struct _OBJECT {
	ULONG Type;
	union {
		ULONG Flags;
		struct {
			ULONG Low : 16;
			ULONG High : 16;
		};
		BITS Bits;
	};
	struct {
		PVOID First;
		union {
			ULONG Inner;
			float Real;
		} Named;
	} Nested;
	LIST_ENTRY List;
	CALLBACK Callback;
	COLOUR Colour;
	const volatile ULONG *Register;
	char Name[16];
	short Matrix[3][4][5];
	PHIDDEN Hidden;
	union _HIDDEN_UNION *HiddenUnion;
	struct _NOWHERE *Nowhere;
	WCHAR Wide[8];
	PWSTR String;
	_Bool Truth;
	double Double;
	PACKED Packed;
	void (*Table[4])(struct _OBJECT *);
	unsigned long long Quad;
	UCHAR Tail[];
} OBJECT, *POBJECT;

ULONG UseHidden(PHIDDEN hidden, union _HIDDEN_UNION *u);
extern OBJECT GlobalObject;
extern ULONG GlobalCount;
