# The replacement for nixpkgs' lib.
let
  inherit (builtins)
    all
    any
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    listToAttrs
    map
    match
    replaceStrings
    stringLength
    substring
    throw
    toString
    ;

  # Checks an argument: a wrong type is an error.
  want =
    what: check: value:
    if check value then value else throw "lib.${what}: not with ${builtins.typeOf value}";
in
rec {
  inherit
    elem
    filter
    isBool
    isInt
    isList
    isString
    replaceStrings
    concatStringsSep
    ;

  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: make: listToAttrs (map (name: nameValuePair name (make name)) names);
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  filterAttrs =
    keep: set: listToAttrs (concatMap (n: if keep n set.${n} then [ (nameValuePair n set.${n}) ] else [ ]) (attrNames set));
  optional = condition: element: if want "optional" isBool condition then [ element ] else [ ];
  optionals = condition: list: if want "optionals" isBool condition then want "optionals" isList list else [ ];
  optionalAttrs = condition: set: if want "optionalAttrs" isBool condition then want "optionalAttrs" isAttrs set else { };
  optionalString = condition: text: if want "optionalString" isBool condition then want "optionalString" isString text else "";
  range = first: last: if first > last then [ ] else builtins.genList (n: first + n) (last - first + 1);
  concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
  hasPrefix = prefix: text: substring 0 (stringLength prefix) (want "hasPrefix" isString text) == prefix;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
  toUpper =
    replaceStrings
      [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ]
      [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];
  isDerivation = value: isAttrs value && value.type or null == "derivation";
  getExe = package: "${want "getExe" isDerivation package}/bin/${package.meta.mainProgram}";
  cleanSource =
    src:
    builtins.path {
      name = "source";
      path = want "cleanSource" builtins.isPath src;
      filter = name: _: !elem (baseNameOf name) [ ".git" ];
    };
  platforms.linux = [ "x86_64-linux" "aarch64-linux" ];

  # Options and properties of definitions.
  mkOption =
    {
      type,
      description,
      default ? throw "an option without a default is not set",
      defaultText ? null,
      example ? null,
    }@option:
    assert want "mkOption: type" (t: t._type or null == "option-type") type != null;
    assert want "mkOption: description" (text: isString text && match "[[:space:]]*" text == null) description != null;
    option // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${want "mkEnableOption" isString what}.";
    };
  literalExpression = text: {
    _type = "literalExpression";
    text = want "literalExpression" isString text;
  };
  mkIf = condition: content: {
    _type = "if";
    condition = want "mkIf" isBool condition;
    inherit content;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;

  types = import ./types.nix { inherit isDerivation; };
}
