// Built without debug information: only public names.
int publics_data = 5;
static int hidden = 6;

int publics_only(int n)
{
	return n + publics_data + hidden;
}

int __stdcall publics_standard(int a, int b)
{
	return a - b;
}

int __fastcall publics_fast(int a, int b)
{
	return a - b;
}
