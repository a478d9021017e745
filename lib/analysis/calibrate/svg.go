package main

import (
	"fmt"
	"math"
	"strings"
)

// chart is a bar chart with one group of bars for each label.
type chart struct {
	title  string
	labels []string
	series []series
	ticks  []float64 // of the axis, rising; the first is where bars begin where log is set
	log    bool
	format func(float64) string
	limit  float64 // a line across; 0: none
}

type series struct {
	name, color string
	values      []float64
}

const (
	chartWidth = 760.0
	chartLeft  = 170.0
	barHeight  = 11.0
)

// x returns the horizontal position of a value.
func (c chart) x(v float64) float64 {
	low, high := 0.0, c.ticks[len(c.ticks)-1]
	if c.log {
		low, high, v = math.Log(c.ticks[0]), math.Log(high), math.Log(max(v, c.ticks[0]))
	}
	return chartLeft + (chartWidth-chartLeft-60)*min(1, (v-low)/(high-low))
}

// String returns the chart as SVG.
func (c chart) String() string {
	group := barHeight*float64(len(c.series)) + 8
	top := 64.0
	bottom := top + group*float64(len(c.labels))
	b := &strings.Builder{}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" `+
		`font-size="11">`+"\n", chartWidth, bottom+28)
	fmt.Fprintf(b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="10" y="20" font-size="14">%s</text>`+"\n",
		c.title)
	for i, s := range c.series {
		x := 10 + 240*float64(i)
		fmt.Fprintf(b, `<rect x="%.0f" y="34" width="10" height="10" fill="%s"/><text x="%.0f" y="43">%s</text>`+"\n",
			x, s.color, x+15, s.name)
	}
	for _, t := range c.ticks {
		fmt.Fprintf(b, `<path d="M%.1f %.0fV%.0f" stroke="#ddd"/><text x="%.1f" y="%.0f" `+
			`text-anchor="middle">%s</text>`+"\n", c.x(t), top-6, bottom, c.x(t), bottom+15, c.format(t))
	}
	for i, label := range c.labels {
		y := top + group*float64(i)
		fmt.Fprintf(b, `<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`+"\n", chartLeft-8, y+group/2, label)
		for k, s := range c.series {
			v, at := s.values[i], y+barHeight*float64(k)
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/><text x="%.1f" y="%.1f" `+
				`font-size="9">%s</text>`+"\n",
				chartLeft, at, c.x(v)-chartLeft, barHeight-2, s.color, c.x(v)+3, at+8, c.format(v))
		}
	}
	if c.limit > 0 {
		fmt.Fprintf(b, `<path d="M%.1f %.0fV%.0f" stroke="#c00" stroke-dasharray="4 3"/>`+"\n", c.x(c.limit), top-6,
			bottom)
	}
	return b.String() + "</svg>\n"
}
