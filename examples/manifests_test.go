package examples

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pipelinev1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	istioscheme "istio.io/client-go/pkg/clientset/versioned/scheme"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	yamldocs "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"knative.dev/pkg/apis"
)

// noManifests are files that no API server reads, or that are templates; tests of their own read
// them.
var noManifests = []string{
	"rehearsal.yaml", "chart/", "jenkins-x-v2/jenkins-x", "jenkins-x-v2/env/", "jenkins-x-v3/helmfiles/",
	"jenkins-x-v3/.lighthouse/jenkins-x/triggers.yaml"}

// Every manifest that is shipped has only fields that its type has, and Tekton finds its own valid.
func TestManifests(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, pipelinev1.AddToScheme, istioscheme.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	read := 0
	for _, folder := range []string{"../tasks", "../pipelines", "."} {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".yml" {
				return err
			}
			for _, no := range noManifests {
				if strings.HasPrefix(path, no) {
					return nil
				}
			}
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			for documents := yamldocs.NewDocumentDecoder(file); ; {
				text := make([]byte, 1<<20)
				n, err := documents.Read(text)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				read++
				object, _, err := decoder.Decode(text[:n], nil, nil)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				// the API server names it before Tekton is asked
				if run, ok := object.(*pipelinev1.PipelineRun); ok && run.Name == "" {
					run.Name = run.GenerateName + "x"
				}
				if ours, ok := object.(interface {
					apis.Defaultable
					apis.Validatable
				}); ok {
					ours.SetDefaults(t.Context())
					if err := ours.Validate(t.Context()); err != nil {
						t.Errorf("%s: %v", path, err)
					}
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if read < 20 {
		t.Errorf("only %d manifests were found", read)
	}
}
