package main

// annotate adds annotations to those that the bundle has.
func (s spec) annotate(add map[string]string) error {
	if len(add) == 0 {
		return nil
	}
	annotations, err := makeObject(s, "annotations")
	if err != nil {
		return err
	}
	for key, value := range add {
		annotations[key] = value
	}
	return nil
}
