package pe

// SymbolTable says where the COFF symbol table of a file begins and how many
// records of 18 bytes it has; the string table follows it. Images of
// Microsoft's linker have none: both are 0, as for a mapped image.
func (im *Image) SymbolTable() (off int64, count uint32, err error) {
	if im.Layout == Mapped {
		return 0, 0, nil
	}
	var dos [64]byte
	if err := readFull(im.r, dos[:], 0, "DOS header"); err != nil {
		return 0, 0, err
	}
	var h [24]byte
	if err := readFull(im.r, h[:], int64(le.Uint32(dos[0x3C:])), "PE header"); err != nil {
		return 0, 0, err
	}
	if off = int64(le.Uint32(h[12:])); off == 0 {
		return 0, 0, nil
	}
	return off, le.Uint32(h[16:]), nil
}
