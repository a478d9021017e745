package release

import (
	"testing"
	"testing/fstest"
)

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, file, text string
		want             int64
	}{
		{"cgroup v2", "memory.max", "134217728\n", 114085045},
		{"cgroup v2 without a limit", "memory.max", "max\n", 0},
		{"cgroup v1", "memory/memory.limit_in_bytes", "268435456\n", 228170090},
		{"cgroup v1 without a limit", "memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		{"neither", "cpu.max", "max 100000\n", 0},
		{"something else", "memory.max", "", 0},
	} {
		if got := memoryLimit(fstest.MapFS{c.file: {Data: []byte(c.text)}}); got != c.want {
			t.Errorf("%s: %d, want %d", c.desc, got, c.want)
		}
	}
}
