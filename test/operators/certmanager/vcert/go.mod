// In place of the library of CyberArk's issuer, which the module proxy does not have: nothing that is built here imports it.
module github.com/Venafi/vcert/v5

go 1.26.0
