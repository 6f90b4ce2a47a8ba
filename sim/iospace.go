package sim

// ioSpace is the machine's I/O ports: a real-time clock, a diagnostic port, an
// interrupt-free serial port's scratch register, PCI configuration, and the
// service ports that the kernel reaches its stand-in firmware through.
type ioSpace struct {
	poll    func() uint32  // service: break-in?
	service func(n uint32) // service: do it

	post     [16]byte // port 80h..8Fh
	scratch  byte     // port 3FFh
	cmos     [128]byte
	cmosReg  byte
	pciAddr  uint32
	pci      map[uint32][]byte // bus<<8 | device<<3 | function
	unhandle uint64
}

const (
	portPoll    = 0x5F0
	portService = 0x5F4
)

func newIOSpace() *ioSpace {
	s := &ioSpace{pci: map[uint32][]byte{}}
	copy(s.cmos[:], []byte{0x00, 0, 0x30, 0, 0x12, 0, 4, 1, 1, 0x26, 0x26, 2, 0, 0x80})
	add := func(dev, fn uint32, vendor, device uint16, class uint32) {
		c := make([]byte, 256)
		le.PutUint16(c[0:], vendor)
		le.PutUint16(c[2:], device)
		le.PutUint16(c[4:], 7)
		le.PutUint32(c[8:], class<<8|2)
		s.pci[dev<<3|fn] = c
	}
	add(0, 0, 0x8086, 0x1237, 0x060000) // host bridge
	add(1, 0, 0x8086, 0x7000, 0x060100) // ISA bridge
	add(2, 0, 0x1234, 0x1111, 0x030000) // display
	return s
}

// In implements cpu.Ports.
func (s *ioSpace) In(port uint16, size int) (v uint32) {
	if port == portPoll {
		if s.poll == nil {
			return 0
		}
		return s.poll()
	}
	if port == 0xCF8 && size == 4 {
		return s.pciAddr
	}
	for i := range size {
		v |= uint32(s.in8(port+uint16(i))) << (8 * i)
	}
	return v
}

func (s *ioSpace) in8(port uint16) byte {
	switch {
	case port >= 0x80 && port < 0x90:
		return s.post[port-0x80]
	case port == 0x71:
		return s.cmos[s.cmosReg&0x7F]
	case port == 0x3FF:
		return s.scratch
	case port == 0x3FD:
		return 0x60 // transmitter empty
	case port >= 0xCFC && port < 0xD00:
		if c := s.config(); c != nil {
			return c[s.pciAddr&0xFC|uint32(port&3)]
		}
	}
	return 0xFF
}

// Out implements cpu.Ports.
func (s *ioSpace) Out(port uint16, size int, v uint32) {
	if port == portService {
		if s.service != nil {
			s.service(v)
		}
		return
	}
	if port == 0xCF8 && size == 4 {
		s.pciAddr = v
		return
	}
	for i := range size {
		s.out8(port+uint16(i), byte(v>>(8*i)))
	}
}

func (s *ioSpace) out8(port uint16, v byte) {
	switch {
	case port >= 0x80 && port < 0x90:
		s.post[port-0x80] = v
	case port == 0x70:
		s.cmosReg = v
	case port == 0x71:
		s.cmos[s.cmosReg&0x7F] = v
	case port == 0x3FF:
		s.scratch = v
	case port >= 0xCFC && port < 0xD00:
		if c := s.config(); c != nil {
			if o := s.pciAddr&0xFC | uint32(port&3); o >= 4 {
				c[o] = v
			}
		}
	default:
		s.unhandle++
	}
}

func (s *ioSpace) config() []byte {
	if s.pciAddr&(1<<31) == 0 {
		return nil
	}
	return s.pci[s.pciAddr>>8&0xFFFF]
}
