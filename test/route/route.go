// Package route records how a VirtualService divided traffic over time, so that answers can be
// compared with the weights in force when their requests were sent.
package route

import (
	"context"
	"fmt"
	"sync"
	"time"

	networking "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned"
	informers "istio.io/client-go/pkg/informers/externalversions"
	"k8s.io/client-go/tools/cache"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// settle is how long proxies may take to follow a change.
const settle = 2 * time.Second

// Split is a division of traffic and when it began.
type Split struct {
	At      time.Time
	Weights string // stable/candidate, in percent: "80/20"
}

// History is all the divisions of a VirtualService since it was followed.
type History struct {
	mu     sync.Mutex
	splits []Split
}

// Follow records the VirtualService until ctx ends. It need not be there yet.
func Follow(ctx context.Context, client istio.Interface, namespace, name string) (*History, error) {
	h := &History{}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	note := func(o any) {
		if vs, ok := o.(*networking.VirtualService); ok && vs.Name == name {
			h.note(time.Now(), Weights(vs))
		}
	}
	_, err := factory.Networking().V1().VirtualServices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note, UpdateFunc: func(_, now any) { note(now) },
	})
	factory.Start(ctx.Done())
	return h, err
}

// Weights returns the two weights of the last route, "" unless it has two.
func Weights(vs *networking.VirtualService) string {
	if len(vs.Spec.Http) == 0 {
		return ""
	}
	last := vs.Spec.Http[len(vs.Spec.Http)-1].Route
	if len(last) != 2 {
		return ""
	}
	return fmt.Sprintf("%d/%d", last[0].Weight, last[1].Weight)
}

func (h *History) note(at time.Time, weights string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.splits); n == 0 || h.splits[n-1].Weights != weights {
		h.splits = append(h.splits, Split{at, weights})
	}
}

// Splits returns the divisions so far, in their order.
func (h *History) Splits() []Split {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Split(nil), h.splits...)
}

// During returns the samples that were sent while the weights were these and the proxies had had
// time to follow.
func (h *History) During(weights string, samples []load.Sample) []load.Sample {
	splits := h.Splits()
	var found []load.Sample
	for i, split := range splits {
		if split.Weights != weights {
			continue
		}
		for _, s := range samples {
			if s.Sent.After(split.At.Add(settle)) && (i+1 == len(splits) || s.Sent.Before(splits[i+1].At)) {
				found = append(found, s)
			}
		}
	}
	return found
}
