// Package grid makes, finds, replaces and gives back zdbs on the ThreeFold Grid.
package grid
