package workload

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Rollout is how far a Deployment is.
type Rollout struct {
	Done   bool
	Text   string // what is missing, in Flagger's words
	Failed bool   // it will not get further by waiting: its own progress deadline is over
}

// RolloutOf reports whether all replicas of a Deployment are of its newest template and at least
// threshold percent of them serve. A Deployment of no replicas does not serve.
func RolloutOf(d *appsv1.Deployment, threshold int32) Rollout {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	needed := (want*threshold + 99) / 100
	status := d.Status
	switch {
	case status.ObservedGeneration < d.Generation:
		return Rollout{Text: "waiting for rollout to finish: observed deployment generation less " +
			"than desired generation"}
	case want == 0:
		return Rollout{Text: "it is scaled to zero"}
	}
	for _, c := range status.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" {
			return Rollout{Failed: true, Text: "deployment exceeded its progress deadline" + whyNot(status)}
		}
	}
	switch {
	case status.UpdatedReplicas < want:
		return Rollout{Text: fmt.Sprintf(
			"waiting for rollout to finish: %d out of %d new replicas have been updated", status.UpdatedReplicas, want)}
	case status.Replicas > status.UpdatedReplicas:
		return Rollout{Text: fmt.Sprintf(
			"waiting for rollout to finish: %d old replicas are pending termination",
			status.Replicas-status.UpdatedReplicas)}
	case status.AvailableReplicas < needed:
		return Rollout{Text: fmt.Sprintf(
			"waiting for rollout to finish: %d of %d (readyThreshold %d%%) updated replicas are available",
			status.AvailableReplicas, want, threshold)}
	}
	return Rollout{Done: true}
}

// whyNot adds what the ReplicaSet says of pods that could not even be made.
func whyNot(status appsv1.DeploymentStatus) string {
	for _, c := range status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return ": " + c.Message
		}
	}
	return ""
}

// Replicas is how many a Deployment is set to; 1 when it does not say.
func Replicas(d *appsv1.Deployment) int32 {
	if d == nil {
		return 0
	}
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}
