package canary

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// object is a YAML map that records which fields are read by name: a field that is never read is
// misspelt.
type object struct {
	r      *reader
	path   string
	fields map[string]any
	known  map[string]bool
}

// object returns the map at a path, of which no field has been read yet.
func (r *reader) object(path string, fields map[string]any) *object {
	return &object{r: r, path: path, fields: fields, known: map[string]bool{}}
}

// at is the path of a field.
func (o *object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// text is a text, number or truth value; "" where there is none.
func (o *object) text(name string) string {
	o.known[name] = true
	text, ok := scalar(o.fields[name])
	if !ok {
		o.r.wrong(o.at(name), "%s is neither text nor a number", short(o.fields[name]))
	}
	return text
}

// short is a value, shortened to fit into a sentence.
func short(value any) string { return show.Short(fmt.Sprint(value)) }

// scalar returns a text, number or truth value as text; "" for none.
func scalar(value any) (string, bool) {
	switch v := value.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case int64:
		return strconv.FormatInt(v, 10), true
	}
	return "", false
}

// list is a list; nil where there is none.
func (o *object) list(name string) []any {
	o.known[name] = true
	list, ok := o.fields[name].([]any)
	if !ok && o.fields[name] != nil {
		o.r.wrong(o.at(name), "%s is no list", short(o.fields[name]))
	}
	return list
}

// texts is a list of texts and numbers.
func (o *object) texts(name string) []string {
	var texts []string
	for i, item := range o.list(name) {
		text, ok := scalar(item)
		if !ok || text == "" {
			o.r.wrong(fmt.Sprintf("%s[%d]", o.at(name), i), "%s is neither text nor a number", short(item))
			continue
		}
		texts = append(texts, text)
	}
	return texts
}

// child is a map within; an empty one where there is none.
func (o *object) child(name string) *object {
	o.known[name] = true
	fields, ok := o.fields[name].(map[string]any)
	if !ok && o.fields[name] != nil {
		o.r.wrong(o.at(name), "%s is no map", short(o.fields[name]))
	}
	return o.r.object(o.at(name), fields)
}

// skip names fields that need not be acted on.
func (o *object) skip(names ...string) {
	for _, name := range names {
		o.known[name] = true
	}
}

// ignore names fields that are not acted on, and ought to be.
func (o *object) ignore(names ...string) {
	o.skip(names...)
	for _, name := range names {
		if value, ok := o.fields[name]; ok && value != false && value != nil {
			o.r.spec.Warnings = append(o.r.spec.Warnings, o.at(name)+" is not acted on")
		}
	}
}

// maxName is how long a field's name may be to be taken for a misspelt one.
const maxName = 64

// done reports the fields that were never read as misspelt.
func (o *object) done() {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		if o.known[name] || len(o.r.errors) > maxErrors {
			continue
		}
		if len(name) > maxName {
			o.r.wrong(o.at(name), "there is no such field")
			continue
		}
		nearest := slices.MinFunc(
			slices.Sorted(maps.Keys(o.known)), func(a, b string) int { return distance(name, a) - distance(name, b) })
		o.r.wrong(o.at(name), "there is no such field, the nearest is %s", nearest)
	}
}

// distance is how many letters have to be changed, added, removed, or swapped with their neighbour
// (optimal string alignment).
func distance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			d[i][j] = min(change, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
