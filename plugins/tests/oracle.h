// The operator once more, in double precision and written straight from its definition: no blocking, no vectors.
#ifndef LIT_DEPLOY_TESTS_ORACLE_H_
#define LIT_DEPLOY_TESTS_ORACLE_H_

#include <vector>

#include "deformable_token_merging/kernel.h"

std::vector<double> oracle(const lit_deploy::MergingShape& shape, const std::vector<double>& x,
                           const std::vector<double>& offset_weight, const std::vector<double>& offset_bias);

#endif  // LIT_DEPLOY_TESTS_ORACLE_H_
