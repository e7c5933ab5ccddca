{
  description = "A package that needs nothing but /bin/sh";

  outputs =
    { self }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      hello = system: derivation {
        name = "hello";
        inherit system;
        builder = "/bin/sh";
        args = [ "-c" "echo building hello; echo 'Hello from Iglu' > $out" ];
      };
    in
    {
      packages = builtins.listToAttrs (
        map (system: {
          name = system;
          value.default = hello system;
        }) systems
      );
    };
}
