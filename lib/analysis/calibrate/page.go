package main

import "fmt"

func write(dir string, m measured) error {
	for _, h := range m.Usual {
		fmt.Printf("%+v\n", h)
	}
	for _, h := range m.Long {
		fmt.Printf("%+v\n", h)
	}
	for _, h := range m.Outages {
		fmt.Printf("%+v\n", h)
	}
	for _, h := range m.Detection {
		fmt.Printf("%+v %.2f %.2f %v\n", h, h.singleRatio(), h.sequentialRatio(), h.met())
	}
	for _, h := range m.Quiet {
		fmt.Printf("%+v\n", h)
	}
	return nil
}
