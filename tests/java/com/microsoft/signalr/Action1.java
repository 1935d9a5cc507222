package com.microsoft.signalr;

public interface Action1<T1> {
    void invoke(T1 param1);
}
