package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// HasCredentials reports whether a directory for New, "" for none, has a configuration of how to
// authenticate to Prometheus. The file is not read: it is meant for the address that the platform
// names, even where it has no secret in it.
func HasCredentials(secrets string) (bool, error) {
	if secrets == "" {
		return false, nil
	}
	switch _, err := os.Stat(filepath.Join(secrets, httpConfig)); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking for %s, which says how to get in to Prometheus: %w", httpConfig, err)
	}
	return true, nil
}
