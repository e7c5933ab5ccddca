# The replacement for nixpkgs' lib.evalModules.
let
  inherit (builtins) all attrNames concatLists concatMap elem filter foldl' isAttrs isFunction isPath map mapAttrs removeAttrs toJSON;

  isOption = v: isAttrs v && v._type or null == "option";
  min = foldl' (a: b: if a < b then a else b) 1500;

  # Selects the definitions that apply, by their conditions and priorities.
  definitions =
    values:
    let
      resolve =
        priority: v:
        if v._type or null == "if" then
          (if v.condition then resolve priority v.content else [ ])
        else if v._type or null == "override" then
          resolve v.priority v.content
        else
          [ { inherit priority; value = v; } ];
      all' = concatMap (v: if isAttrs v then resolve 100 v else [ { priority = 100; value = v; } ]) values;
      highest = min (map (d: d.priority) all');
    in
    map (d: d.value) (filter (d: d.priority == highest) all');

  # Conditions of a set are moved to its attributes, because they may depend on other options.
  pushDown =
    v:
    if v._type or null == "if" || v._type or null == "override" then
      mapAttrs (_: content: v // { inherit content; }) (pushDown v.content)
    else
      v;

  # A tree of options with their definitions.
  evaluate =
    where: option: values:
    if isOption option then define where option (definitions values) else descend where option (map pushDown values);

  define =
    where: option: found:
    let
      isSet = v: isAttrs v && v.type or null != "derivation";
      resolved = map (v: if isSet v then resolveAttrs v else v) found;
    in
    if found == [ ] then
      option.default
    else if !all option.type.check resolved then
      throw "${where} is not of the type ${option.type.name}: ${toJSON found}"
    else
      option.type.merge where resolved;

  descend =
    where: options: sets:
    let
      unknown = concatMap (set: filter (name: !options ? ${name}) (attrNames set)) sets;
    in
    if unknown != [ ] then
      throw "there is no option ${where}.${builtins.head unknown}"
    else
      mapAttrs (
        name: option: evaluate "${where}.${name}" option (concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets)
      ) options;

  # Conditions and priorities of a set's attributes have the same effect as those of the set.
  resolveAttrs =
    set:
    foldl' (
      result: name:
      let
        found = definitions [ set.${name} ];
      in
      if found == [ ] then result else result // { ${name} = builtins.head found; }
    ) { } (attrNames set);

  # Defaults are checked like definitions.
  checked =
    where: option:
    if isOption option then
      option
      // {
        default =
          if option ? default && !option.type.check option.default then
            throw "the default of ${where} is not of the type ${option.type.name}: ${toJSON option.default}"
          else if option ? default then
            option.type.merge where [ option.default ]
          else
            throw "${where} is not defined";
      }
    else
      mapAttrs (name: checked "${where}.${name}") option;

  mergeOptions =
    where: a: b:
    a
    // mapAttrs (
      name: o:
      if !a ? ${name} then
        o
      else if isOption o || isOption a.${name} then
        throw "the option ${where}.${name} is declared twice"
      else
        mergeOptions "${where}.${name}" a.${name} o
    ) b;

  collect =
    args: module:
    let
      m = if isPath module then import module else module;
      set = if isFunction m then m args else m;
      long = set ? config || set ? options;
      extra = attrNames (removeAttrs set [ "imports" "config" "options" ]);
    in
    if long && extra != [ ] then
      throw "a module with config or options has ${builtins.head extra} as well"
    else
      [
        {
          options = set.options or { };
          config = if long then set.config or { } else removeAttrs set [ "imports" ];
        }
      ]
      ++ concatLists (map (collect args) (set.imports or [ ]));
in
{
  options = where: options: evaluate where (checked where options);

  evalModules =
    { modules, specialArgs }:
    let
      all' = concatMap (collect (specialArgs // { inherit config options; })) modules;
      options = foldl' (mergeOptions "") { } (map (m: m.options) all');
      config = evaluate "" (checked "" options) (map (m: m.config) all');
    in
    {
      inherit config options;
    };
}
