package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"openkd/kdproto"
	"openkd/target"
)

// System is what the target says about its operating system.
type System struct {
	Name       string // "Windows 10"
	Build      uint32
	Major      uint32 // of KUSER_SHARED_DATA, 0 when it could not be read
	Minor      uint32
	Processors int
	MP, Free   bool // multiprocessor kernel, free build
	Machine    kdproto.Machine
	Product    string   // WinNt, LanManNt, ServerNt; "" unknown
	Suites     []string // names of the suite mask
	BuildLab   string   // "19041.1.amd64fre.vb_release.191206-1406"; "" unknown
	KernBase   uint64
	ListHead   uint64        // PsLoadedModuleList
	Time       time.Time     // the target's clock; zero unknown
	Zone       time.Duration // what the target adds to UTC
	Uptime     time.Duration // -1 unknown
}

// Address of KUSER_SHARED_DATA by pointer size, and offsets in it: ReactOS and
// WDK headers.
const (
	sharedData64 = 0xFFFFF78000000000
	sharedData32 = 0xFFFFFFFFFFDF0000

	sharedInterruptTime = 0x08 // KSYSTEM_TIME: low u32, high u32, high again
	sharedSystemTime    = 0x14
	sharedTimeZoneBias  = 0x20
	sharedProductType   = 0x264 // u32: 1 WinNt, 2 LanManNt, 3 ServerNt
	sharedProductValid  = 0x268 // u8
	sharedMajor         = 0x26C
	sharedMinor         = 0x270
	sharedSuiteMask     = 0x2D0
	sharedLen           = 0x2E0
)

// System reads what the target says about itself, in one exchange.
func (e *Engine) System(ctx context.Context) (System, error) {
	h, a, err := e.view()
	if err != nil {
		return System{}, err
	}
	v := e.Version()
	if v == nil {
		return System{}, target.ErrNotReady
	}
	s := System{
		Build: uint32(v.Minor), Processors: e.Processors(), MP: v.Flags&kdproto.VersionMP != 0, Free: v.Major&0xFF == 0x0F,
		Machine: v.Machine, KernBase: a.Canon(v.KernBase), ListHead: a.Canon(v.PsLoadedModuleList), Uptime: -1,
	}
	addr := uint64(sharedData64)
	if a.PointerSize == 4 {
		addr = sharedData32
	}
	batch := []target.Request{Virtual.ReadRequest(addr, sharedLen)}
	if lab, ok := e.DataField(0x208); ok && lab != 0 {
		batch = append(batch, target.Request{Op: target.OpString, Addr: lab, Len: 256, Flags: 1})
	}
	r, err := e.do(ctx, h, batch...)
	if err != nil {
		return System{}, err
	}
	if len(r) > 1 {
		s.BuildLab = printable(string(r[1].Data()))
	}
	if b := r[0].Data(); len(b) >= sharedLen {
		u32 := func(off int) uint32 { return le.Uint32(b[off:]) }
		u64 := func(off int) uint64 { return uint64(u32(off)) | uint64(u32(off+4))<<32 }
		s.Major, s.Minor = u32(sharedMajor), u32(sharedMinor)
		s.Time = fileTime(u64(sharedSystemTime))
		if up := u64(sharedInterruptTime); up < 1<<58 && up > 0 {
			s.Uptime = time.Duration(up) * 100
		}
		// The bias is what must be added to local time to get UTC.
		if bias := int64(u64(sharedTimeZoneBias)); bias > -24*36e9 && bias < 24*36e9 {
			s.Zone = time.Duration(-bias) * 100
		}
		if t := u32(sharedProductType); b[sharedProductValid] != 0 && t >= 1 && t <= 3 {
			s.Product = [4]string{"", "WinNt", "LanManNt", "ServerNt"}[t]
		}
		s.Suites = suites(u32(sharedSuiteMask))
	}
	s.Name = systemName(s.Major, s.Minor, s.Build, s.Product == "WinNt" || s.Product == "")
	return s, nil
}

// suiteNames are the bits of the suite mask, from winnt.h.
var suiteNames = [...]string{
	"SmallBusiness", "Enterprise", "BackOffice", "CommunicationServer", "TerminalServer", "SmallBusinessRestricted",
	"EmbeddedNT", "DataCenter", "SingleUserTS", "Personal", "Blade", "EmbeddedRestricted", "SecurityAppliance",
	"StorageServer", "ComputeServer", "HomeServer",
}

func suites(mask uint32) []string {
	var out []string
	for i, n := range suiteNames {
		if mask>>i&1 != 0 {
			out = append(out, n)
		}
	}
	return out
}

// systemName is the marketing name of a version: by the target's own version
// numbers, or by the build where they are not readable.
func systemName(major, minor, build uint32, client bool) string {
	if major == 0 {
		switch {
		case build >= 10240:
			major, minor = 10, 0
		case build >= 9600:
			major, minor = 6, 3
		case build >= 9200:
			major, minor = 6, 2
		case build >= 7600:
			major, minor = 6, 1
		case build >= 6000:
			major, minor = 6, 0
		case build == 3790:
			major, minor = 5, 2
		case build == 2600:
			major, minor = 5, 1
		case build == 2195:
			major, minor = 5, 0
		}
	}
	pick := func(c, s string) string {
		if client {
			return c
		}
		return s
	}
	switch {
	case major == 10 && build >= 22000 && client:
		return "Windows 11"
	case major == 10:
		return "Windows 10"
	case major == 6 && minor == 3:
		return "Windows 8.1"
	case major == 6 && minor == 2:
		return "Windows 8"
	case major == 6 && minor == 1:
		return "Windows 7"
	case major == 6 && minor == 0:
		return pick("Windows Vista", "Windows Server 2008")
	case major == 5 && minor == 2:
		return "Windows Server 2003"
	case major == 5 && minor == 1:
		return "Windows XP"
	case major == 5 && minor == 0:
		return "Windows 2000"
	}
	return "Windows"
}

// MachineName is how the banner names a processor.
func MachineName(m kdproto.Machine) string {
	switch m {
	case kdproto.MachineI386:
		return "x86 compatible"
	case kdproto.MachineAMD64:
		return "x64"
	case kdproto.MachineARM64:
		return "ARM 64-bit (AArch64)"
	}
	return m.String()
}

// ConnectedLine is the line that tells of a target met: "Connected to Windows 10
// 19041 x64 target at (...), ptr64 TRUE".
func ConnectedLine(v *kdproto.Version, at time.Time) string {
	ptr := "FALSE"
	if v.Machine.PointerSize() == 8 {
		ptr = "TRUE"
	}
	return fmt.Sprintf("Connected to %s %d %s target at (%s), ptr64 %s",
		systemName(0, 0, uint32(v.Minor), true), v.Minor, MachineName(v.Machine), FormatTime(at), ptr)
}

// Banner is the version block of the banner and of vertarget, up to the module
// list.
func (s *System) Banner() string {
	var b strings.Builder
	mp := "UP"
	if s.MP {
		mp = "MP"
	}
	free := "Free"
	if !s.Free {
		free = "Checked"
	}
	procs := ""
	if s.Processors > 0 {
		plural := "procs"
		if s.Processors == 1 {
			plural = "proc"
		}
		procs = fmt.Sprintf(" (%d %s)", s.Processors, plural)
	}
	fmt.Fprintf(&b, "%s Kernel Version %d %s%s %s %s\n", s.Name, s.Build, mp, procs, free, MachineName(s.Machine))
	if s.Product != "" {
		fmt.Fprintf(&b, "Product: %s", s.Product)
		if len(s.Suites) > 0 {
			fmt.Fprintf(&b, ", suite: %s", strings.Join(s.Suites, " "))
		}
		b.WriteByte('\n')
	}
	if s.BuildLab != "" {
		fmt.Fprintf(&b, "Built by: %s\n", s.BuildLab)
	}
	b.WriteString("Machine Name:\n")
	b.WriteString(s.KernelLine())
	return b.String()
}

// KernelLine is the line of the banner about the kernel.
func (s *System) KernelLine() string {
	n := s.Machine.PointerSize()
	return fmt.Sprintf("Kernel base = 0x%s PsLoadedModuleList = 0x%s\n", FormatAddr(s.KernBase, n), FormatAddr(s.ListHead, n))
}

// Times are the two lines of .time and of the banner.
func (s *System) Times() string {
	t := "Debug session time: not available\n"
	if !s.Time.IsZero() {
		t = fmt.Sprintf("Debug session time: %s\n", FormatTime(s.Time.In(time.FixedZone("", int(s.Zone/time.Second)))))
	}
	if s.Uptime < 0 {
		return t + "System Uptime: not available\n"
	}
	return t + "System Uptime: " + FormatUptime(s.Uptime) + "\n"
}

// FormatTime is a time as the banner shows it: "Thu Jan  1 00:00:00.000 1970
// (UTC - 8:00)".
func FormatTime(t time.Time) string {
	_, off := t.Zone()
	sign := '+'
	if off < 0 {
		sign, off = '-', -off
	}
	return fmt.Sprintf("%s (UTC %c %d:%02d)", t.Format("Mon Jan _2 15:04:05.000 2006"), sign, off/3600, off%3600/60)
}

// FormatUptime is a duration as the banner shows it: "0 days 0:00:20.534".
func FormatUptime(d time.Duration) string {
	return fmt.Sprintf("%d days %d:%02d:%02d.%03d", d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60, d/time.Millisecond%1000)
}

// ReadMSR reads a model-specific register of the processor that commands look
// at.
func (e *Engine) ReadMSR(ctx context.Context, msr uint32) (uint64, error) {
	r, err := e.msr(ctx, target.Request{Op: target.OpReadMSR, Addr: uint64(msr)})
	return r.Value, err
}

// WriteMSR writes one.
func (e *Engine) WriteMSR(ctx context.Context, msr uint32, v uint64) error {
	_, err := e.msr(ctx, target.Request{Op: target.OpWriteMSR, Addr: uint64(msr), Value: v})
	return err
}

// ErrNoMSR says that the processor has no such register, or that it faulted.
var ErrNoMSR = errors.New("no such MSR")

func (e *Engine) msr(ctx context.Context, q target.Request) (target.Reply, error) {
	h, a, err := e.view()
	if err != nil {
		return target.Reply{}, err
	}
	if a.Machine == kdproto.MachineARM64 {
		return target.Reply{}, errors.New("model-specific registers are of x86 and x64 processors; this is ARM64")
	}
	// A target reads the registers of the processor that talks.
	if err := e.switchTo(ctx, h, h.pick(-1)); err != nil {
		return target.Reply{}, err
	}
	q.Processor = uint16(h.pick(-1))
	r, err := e.do(ctx, h, q)
	if err != nil {
		return target.Reply{}, err
	}
	if r[0].Status.Failed() {
		return r[0], fmt.Errorf("%w: MSR %x faulted on processor %d (status %s)", ErrNoMSR, q.Addr, q.Processor, r[0].Status)
	}
	return r[0], nil
}

// LocationLines is what stands under a stop: the name of the place, when there
// is one, and the instruction there, each with a newline.
func (e *Engine) LocationLines(ctx context.Context, pc uint64) string {
	var b strings.Builder
	if n := e.Symbolize(pc); n != "" {
		b.WriteString(n + ":\n")
	}
	in, err := e.Instruction(ctx, pc)
	if err != nil {
		fmt.Fprintf(&b, "%s ??              ???\n", e.FormatAddr(pc))
		return b.String()
	}
	b.WriteString(in.Line() + "\n")
	return b.String()
}
