# The replacement for nixpkgs' lib.types. A type has a name, a check of a value, and a function that merges several
# definitions.
{ isDerivation }:

let
  inherit (builtins) all any attrNames concatLists concatStringsSep elem head isAttrs isInt isList isString length map match toJSON;

  type =
    name: check: merge:
    {
      _type = "option-type";
      inherit name check merge;
    };
  one =
    name: check:
    type name check (
      where: values:
      if all (value: value == head values) values then head values else throw "${where} is defined several times, with different values"
    );
  isType = t: if t._type or null == "option-type" then t else throw "this is no type: ${toJSON t}";

  listOf' = name: least: element:
    let
      e = isType element;
    in
    type "${name} ${e.name}" (v: isList v && all e.check v) (
      where: values:
      let
        list = concatLists values;
      in
      if length list < least then throw "${where} is empty" else map (v: e.merge where [ v ]) list
    );
in
rec {
  anything = one "anything" (_: true);
  bool = one "bool" builtins.isBool;
  str = one "str" isString;
  lines = type "lines" isString (_: concatStringsSep "\n");
  package = one "package" isDerivation;
  ints.between =
    least: most:
    assert isInt least && isInt most && least <= most;
    one "int from ${toString least} to ${toString most}" (v: isInt v && v >= least && v <= most);
  ints.positive = one "positive int" (v: isInt v && v > 0);
  enum =
    values:
    assert isList values && values != [ ];
    one "one of ${toJSON values}" (v: elem v values);
  strMatching =
    pattern:
    assert isString pattern;
    one "string matching ${pattern}" (v: isString v && match pattern v != null);
  nullOr =
    other:
    let
      t = isType other;
    in
    type "null or ${t.name}" (v: v == null || t.check v) (
      where: values: if any (v: v == null) values then anything.merge where values else t.merge where values
    );
  either =
    a: b:
    type "${(isType a).name} or ${(isType b).name}" (v: a.check v || b.check v) (
      where: values: if all a.check values then a.merge where values else b.merge where values
    );
  listOf = listOf' "list of" 0;
  nonEmptyListOf =
    element:
    let
      t = listOf' "non-empty list of" 1 element;
    in
    t // { check = v: t.check v && v != [ ]; };
  attrsOf =
    element:
    let
      e = isType element;
      names = values: builtins.foldl' (set: value: set // value) { } values;
    in
    type "attribute set of ${e.name}" isAttrs (
      where: values:
      builtins.mapAttrs (
        name: _:
        let
          found = concatLists (map (v: if v ? ${name} then [ v.${name} ] else [ ]) values);
        in
        if all e.check found then e.merge "${where}.${name}" found else throw "${where}.${name} is not of the type ${e.name}: ${toJSON found}"
      ) (names values)
    );
  # Like nixpkgs', but only with options.
  submodule =
    { options }:
    type "submodule" isAttrs (
      where: values: (import ./modules.nix).options where options values
    );
}
