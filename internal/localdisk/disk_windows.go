package localdisk

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

func onDisk(path string) string {
	if why := drive(path); why != "" {
		return why
	}
	// Links and substituted drives may lead elsewhere.
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return "is no path"
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, 0, share, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return "" // what cannot be opened is not read either
	}
	defer windows.CloseHandle(h)
	buf := make([]uint16, 512)
	for {
		n, err := windows.GetFinalPathNameByHandle(h, &buf[0], uint32(len(buf)), 0)
		if err != nil {
			return ""
		}
		if int(n) <= len(buf) {
			break
		}
		buf = make([]uint16, n)
	}
	final := windows.UTF16ToString(buf)
	if why := named(final); why != "" {
		return why
	}
	return drive(final)
}

// drive judges the drive of a path.
func drive(path string) string {
	root := filepath.VolumeName(path)
	if root == "" {
		return ""
	}
	name, err := windows.UTF16PtrFromString(root + `\`)
	if err != nil {
		return "is no path"
	}
	if windows.GetDriveType(name) == windows.DRIVE_REMOTE {
		return "is on a network drive"
	}
	return ""
}
