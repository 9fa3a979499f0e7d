# Elements are told by the file or asked for, never guessed by a first letter.
. "$ATTACKS/lib.sh"
printf '@<TRIPOS>MOLECULE\nx\n2 0\nSMALL\nNO_CHARGES\n@<TRIPOS>ATOM\n1 CT 0 0 0 opls_135\n2 HC 1 0 0 opls_140\n' > opls.mol2
printf 'path,label\nopls.mol2,a\n' > table.csv
refused "none for atom 1 (CT)" "$STEER3D" dataset build table.csv --quiet --elements O --out opls.h5
refused "none for atom 1 (CT)" "$STEER3D" dataset build table.csv --quiet --atoms heavy --out heavy.h5
"$STEER3D" dataset build table.csv --quiet --out all.h5
# Lithium is no oxygen.
cp "$ATTACKS/files/li.mol2" .
printf 'path,label\nli.mol2,a\n' > table.csv
refused "at least one atom of the chosen ones" "$STEER3D" dataset build table.csv --quiet --elements O --out li.h5
"$STEER3D" dataset build table.csv --quiet --elements Li --out lithium.h5
