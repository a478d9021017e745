package release

import (
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory lets the garbage collector work harder before the container's memory limit is
// reached, so that a step is not killed for what it need not keep. A GOMEMLIMIT that somebody set
// stays.
func limitMemory() {
	if limit := memoryLimit(os.DirFS("/sys/fs/cgroup")); limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// memoryShare of a container's memory is for Go, in percent: the kernel counts what the program's
// file and its sockets have in memory as well.
const memoryShare = 85

// memoryLimit returns how many bytes of memory Go may have by the limit of this process' cgroup, of
// version 2 or 1; 0 where there is none.
func memoryLimit(cgroup fs.FS) int64 {
	for _, file := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		text, err := fs.ReadFile(cgroup, file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil || limit <= 0 || limit > 1<<60 { // "max", and what version 1 has instead
			return 0
		}
		return limit / 100 * memoryShare
	}
	return 0
}
