// Symmetric matrices that are zero away from the diagonal, and their Cholesky factorisation.
//
// Row i is stored from its first nonzero column to the diagonal. The factor is nonzero only there (George and Liu,
// Computer Solution of Large Sparse Positive Definite Systems, 1981, chapter 4), so a chain of keyframes costs as much
// as it has keyframes, and a loop lengthens only the rows that it touches.
#pragma once

#include <cstddef>
#include <vector>

namespace droid {

class EnvelopeMatrix {
 public:
  EnvelopeMatrix() = default;
  // first[i] <= i: column of the first element of row i.
  explicit EnvelopeMatrix(std::vector<int> first);

  int size() const { return static_cast<int>(first_.size()); }
  int first(int i) const { return first_[i]; }
  // Element (i, j) is row(i)[j], first(i) <= j <= i.
  double* row(int i) { return values_.data() + origin_[i]; }

  // Adds factor * block [rows, columns] (row-major, stride) at (i, j); what falls above the diagonal is left out, so
  // a pair of different blocks is added in both orders.
  void add(int i, int j, int rows, int columns, const double* block, int stride, double factor);

  // Solves A x = b; A becomes its factor, b becomes x. False: not positive definite, or not finite.
  bool solve(double* b);

 private:
  bool factorise();
  void eliminate_six(int i);
  bool finish_row(int i, int begin);  // columns begin..i of its factor; false: not positive definite

  std::vector<int> first_;
  std::vector<std::ptrdiff_t> origin_;  // of column 0 of each row, which may lie before the row's storage
  std::vector<double> values_;
};

}  // namespace droid
