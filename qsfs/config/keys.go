package config

import (
	"reflect"
	"strings"
)

// Keys lists the top-level keys in the order of [Config]'s fields.
func Keys() []string { return structKeys(reflect.TypeFor[Config]()) }

func structKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "" {
			keys = append(keys, tag)
		}
	}
	return keys
}

func structField(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldOf(c *Config, key string) (reflect.Value, bool) {
	return structField(reflect.ValueOf(c).Elem(), key)
}

// suggest names the key nearest to a mistyped one, as the tail of a sentence.
func suggest(word string, keys []string) string {
	if len(word) > 64 {
		return "" // no mistyped key, and comparing costs length by length
	}
	best, distance := "", 4
	for _, k := range keys {
		if d := editDistance(strings.ToLower(word), k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// editDistance is the number of letters to insert, delete or change.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// Same says whether a key has the same value in two configurations.
func Same(key string, a, b *Config) bool {
	x, _ := fieldOf(a, key)
	y, _ := fieldOf(b, key)
	return x.IsValid() == y.IsValid() && (!x.IsValid() || reflect.DeepEqual(x.Interface(), y.Interface()))
}
