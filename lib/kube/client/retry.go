package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Unavailable reports whether an error says that the API server, or a webhook it asks, could not
// answer, which may be over in a while.
func Unavailable(err error) bool { return transient(err) || unclear(err) }

// Refused reports whether an error is the answer of the API server, or of a webhook it asks. The
// answer to the same write may be another one in a while.
func Refused(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// again are the waits before a request is sent once more: about 12 s in all, or 10 s each where the
// API server asks for them. A Cap would end them.
var again = wait.Backoff{Steps: 7, Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2}

// retry sends a request again while the API server, or a webhook it asks, cannot answer; a read
// also where the answer was lost.
func (c *Client) retry(ctx context.Context, what string, reads bool, send func() error) error {
	backoff, begin := again, time.Now()
	for {
		c.calls.Add(1)
		err := send()
		if repeat := transient(err) || reads && unclear(err); err == nil || !repeat || backoff.Steps <= 1 {
			return err
		}
		if c.Waiting != nil {
			c.Waiting(what, time.Since(begin), err)
		}
		pause := backoff.Step()
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, min(time.Duration(seconds)*time.Second, 10*time.Second))
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// transient reports whether a request was not carried out, for a reason that may be over in a
// while.
func transient(err error) bool {
	return apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) ||
		utilnet.IsConnectionRefused(err)
}

// unclear reports whether a write may or may not have happened: the answer was lost.
func unclear(err error) bool {
	var netErr net.Error
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || errors.Is(err, errEnded) ||
		errors.As(err, &netErr) && netErr.Timeout()
}

// failedTest reports whether a test of a JSON Patch failed, which is a 422 without causes.
func failedTest(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code == http.StatusUnprocessableEntity && !hasCauses(err)
}

// hasCauses reports whether the API server's answer names causes. A 404 does where the kind is not
// served, and a 422 where a field is invalid.
func hasCauses(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && len(status.Status().Details.Causes) > 0
}
